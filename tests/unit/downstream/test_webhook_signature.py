from __future__ import annotations

import base64
import re
from contextlib import suppress
from datetime import UTC, datetime

import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import WebhookVerificationError

from traced_relay.cli.options import read_headers
from traced_relay.downstream.webhook_signature import parse_secrets, sign, text_of, verify
from traced_relay.errors import NotVerified
from traced_relay.runtime.clock import SystemClock

ID = "5b487531bceaaa36f43ec81db3b338f9"
NOW = 1_795_292_880
BODY = b'{"type":"task.succeeded"}'


def secret(letter: bytes, size: int = 32) -> str:
    return f"whsec_{base64.b64encode(letter * size).decode()}"


OLD, NEW, STRANGERS = secret(b"o"), secret(b"n"), secret(b"s")
KEYS = parse_secrets(NEW)
SIGNED = sign(KEYS, ID, NOW, BODY)


def test_the_headers_are_those_of_standard_webhooks() -> None:
    # The example of the specification.
    keys = parse_secrets("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    assert sign(keys, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330.9, b'{"test": 2432232314}') == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@given(st.text(), st.binary(min_size=24, max_size=64))
def test_the_library_and_we_verify_each_others_signatures(text: str, key: bytes) -> None:
    library, body, now = standardwebhooks.Webhook(key), text.encode(), SystemClock().now()
    library.verify(body, sign([key], ID, now, body), json_parse=False)
    theirs = library.sign(ID, datetime.fromtimestamp(int(now), UTC), text)
    verify([key], {"Webhook-Id": ID, "Webhook-Timestamp": str(int(now)), "Webhook-Signature": theirs}, body, now)


def test_the_library_refuses_our_signature_of_a_changed_body() -> None:
    now = SystemClock().now()
    headers = sign(KEYS, ID, now, BODY)
    assert standardwebhooks.Webhook(NEW).verify(BODY, headers) == {"type": "task.succeeded"}
    for key, signed, body in (
        (NEW, headers, BODY + b" "),
        (STRANGERS, headers, BODY),
        (NEW, headers | {"webhook-id": "other"}, BODY),
        (NEW, sign(KEYS, ID, now - 301, BODY), BODY),
    ):
        with pytest.raises(WebhookVerificationError):
            standardwebhooks.Webhook(key).verify(body, signed)


def test_both_secrets_sign_during_a_rotation_and_one_is_enough() -> None:
    now = SystemClock().now()
    headers = sign(parse_secrets(f"{OLD} {NEW}"), ID, now, BODY)
    assert headers["webhook-signature"].count("v1,") == 2
    for known in (OLD, NEW, f"{STRANGERS}\n{NEW}"):
        verify(parse_secrets(known), headers, BODY, now)
    for known in (OLD, NEW):
        standardwebhooks.Webhook(known).verify(BODY, headers)
    with pytest.raises(NotVerified, match="no signature matches"):
        verify(parse_secrets(STRANGERS), headers, BODY, now)


@pytest.mark.parametrize("off", [-300, 0, 300])
def test_the_clocks_may_differ_by_five_minutes(off: float) -> None:
    verify(KEYS, SIGNED, BODY, NOW + off)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"webhook-id": ""}, "webhook-id is missing"),
        ({"webhook-timestamp": ""}, "webhook-timestamp is missing"),
        ({"webhook-signature": ""}, "webhook-signature is missing"),
        ({"webhook-id": "other"}, "no signature matches"),
        ({"webhook-timestamp": str(NOW - 1)}, "no signature matches"),
        ({"webhook-timestamp": str(NOW - 301)}, "webhook-timestamp is 301 s old, and at most 300 s"),
        ({"webhook-timestamp": str(NOW + 301)}, "webhook-timestamp is 301 s ahead"),
        *(
            ({"webhook-timestamp": text}, "webhook-timestamp must be whole seconds")
            for text in ("now", "1.5", "-1", "1e9", f" {NOW}", f"{NOW}\n", "٨", "9" * 13)
        ),
        *(
            ({"webhook-id": text}, "webhook-id must be printable ASCII")
            for text in ("a.b", "a b", "é", "a\n", "x" * 257)
        ),
        *(
            ({"webhook-signature": text}, "webhook-signature must contain v1,")
            for text in ("v1", "v1,", "v1,!!!", "v1a,c2ln", "é", ", ,", SIGNED["webhook-signature"][3:])
        ),
    ],
)
def test_each_cause_has_its_own_text(changes: dict[str, str], why: str) -> None:
    with pytest.raises(NotVerified, match=f"^{why}"):
        verify(KEYS, SIGNED | changes, BODY, NOW)


def test_header_case_and_additional_signatures_are_ignored() -> None:
    signatures = f"v1a,c2ln junk v2,x {SIGNED['webhook-signature']}"
    verify(
        KEYS, {name.title(): value for name, value in (SIGNED | {"webhook-signature": signatures}).items()}, BODY, NOW
    )


def test_a_changed_body_does_not_match() -> None:
    for body in (b"", BODY[:-1], BODY + b"\n", BODY.replace(b"succeeded", b"failed")):
        with pytest.raises(NotVerified, match="no signature matches"):
            verify(KEYS, SIGNED, body, NOW)


@given(st.dictionaries(st.sampled_from(sorted(SIGNED)), st.text()), st.binary())
def test_no_bytes_of_a_stranger_pass(changes: dict[str, str], body: bytes) -> None:
    if changes or body != BODY:
        with pytest.raises(NotVerified):
            verify(KEYS, SIGNED | {name: text + "x" for name, text in changes.items()}, body + b"x", NOW)


@pytest.mark.parametrize("size", [24, 32, 64])
def test_a_secret_is_the_base64_of_24_to_64_bytes(size: int) -> None:
    assert parse_secrets(f"\t{secret(b'k', size)} \n") == (b"k" * size,)


@pytest.mark.parametrize(
    "text",
    [
        f"\ufeff{OLD}",
        f'"{OLD}"',
        f"'{OLD}'\r\n",
        f"\u201c{OLD}\u201d",
        f"v1,{OLD}",
        f'"v1,{OLD}"\n',
        f"\r\n{OLD} \t\xa0\n",
    ],
)
def test_quotes_and_prefixes_around_a_secret_are_stripped(text: str) -> None:
    assert parse_secrets(text) == parse_secrets(OLD)
    assert parse_secrets(f"{text} {NEW}") == parse_secrets(f"{OLD} {NEW}")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_secret_is_read_in_every_encoding_of_an_editor(encoding: str) -> None:
    assert parse_secrets(text_of(f"{OLD}\r\n{NEW}\r\n".encode(encoding))) == parse_secrets(f"{OLD} {NEW}")
    assert parse_secrets(text_of(b"\xfe\xff" + OLD.encode("utf-16-be"))) == parse_secrets(OLD)


@pytest.mark.parametrize("content", [b"hunter2\xff", b"\xff\xfeh", bytes(range(128, 160)), b"\xff\xfe\x00\xd8"])
def test_binary_secrets_are_refused_unshown(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"it is not text, in UTF-8 or UTF-16$") as refused:
        parse_secrets(text_of(content))
    assert refused.value.__cause__ is None


@given(st.binary())
def test_any_content_is_read_or_refused_by_the_rule(content: bytes) -> None:
    with suppress(ValueError):
        parse_secrets(text_of(content))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "whsec_",
        secret(b"k", 23),
        secret(b"k", 65),
        secret(b"k").removeprefix("whsec_"),
        secret(b"k").rstrip("="),
        f"{OLD},{NEW}",
        f"{OLD} hunter2",
        "WHSEC_" + OLD[6:],
        "whsec_" + "é" * 40,
        "whsec_" + "-_" * 20,
    ],
)
def test_a_malformed_secret_is_refused_unshown(text: str) -> None:
    with pytest.raises(ValueError, match="must be") as refused:
        parse_secrets(text)
    rule, fault = str(refused.value).split("; ")
    assert rule == "must be whsec_ and the base64 of 24 to 64 bytes, or several of these with spaces between"
    faults = r"does not start with whsec_|is not base64 with its padding after whsec_|has \d+ bytes"
    assert re.fullmatch(rf"it is empty|(it|secret 2) ({faults})", fault)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        ("", {}),
        ("Webhook-Id: 1\nwebhook-timestamp:2 ", {"webhook-id": "1", "webhook-timestamp": "2"}),
        ("POST /a: b HTTP/1.1\r\nWebhook-Id: 1\r\nHost: a\r\n\r\nx: body", {"webhook-id": "1", "host": "a"}),
        ("> POST / HTTP/1.1\n> Webhook-Id: 1\n>\nx: body", {"webhook-id": "1"}),
        ("\nHTTP/1.1 200 OK\nA: b: c", {"a": "b: c"}),
        ("nonsense\n : x\n{}", {}),
    ],
)
def test_header_lines_are_read_as_they_come(text: str, headers: dict[str, str]) -> None:
    assert read_headers(text) == headers
