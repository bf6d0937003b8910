from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traced_relay.errors import FieldError, InvalidCall
from traced_relay.formats import strict_json
from traced_relay.formats.validation import read
from traced_relay.tasks.call import RetryPolicy
from traced_relay.tasks.enqueue_request import EnqueueRequest, enqueue_request, idempotency_key, without_nulls
from traced_relay.tasks.header_policy import with_content_type

URL = "https://reports.example.com/build"
DURATION = 'must be a duration such as "30s", "1.5s", "5m", "24h" or "7d"'
NOT_A_HOST = "must have a DNS name or an IP address as its host, and a port, if any, from 1 to 65535"
NOT_ASCII = "must be printable ASCII; percent-encode everything else (RFC 3986)"
NO_FRAGMENT = "must have no fragment, since HTTP never sends one; percent-encode # as %23"
INTERNATIONAL = "must have a host in ASCII; write an international name in its xn-- form"
NOT_UNICODE = "must be valid Unicode, without lone surrogates"
PERCENT = "must have two hex digits after every % (RFC 3986)"
BASE64 = "must be base64 (RFC 4648, section 4) with its padding"

WRONG: list[tuple[dict[str, Any], list[tuple[str, str]]]] = [
    ({"url": 5}, [("url", "must be a string")]),
    ({"url": None}, [("url", "must be a string")]),
    ({"url": "/build"}, [("url", "must start with http:// or https://")]),
    ({"url": "ftp://a/"}, [("url", "must start with http:// or https://")]),
    ({"url": "javascript:alert(1)"}, [("url", "must start with http:// or https://")]),
    ({"url": "//a/"}, [("url", "must start with http:// or https://")]),
    ({"url": ""}, [("url", "must start with http:// or https://")]),
    ({"url": "http://user@a/"}, [("url", "must not contain a user name or password")]),
    ({"url": "http://user:secret@a/"}, [("url", "must not contain a user name or password")]),
    ({"url": "http://@a/"}, [("url", "must not contain a user name or password")]),
    *(
        ({"url": url}, [("url", NOT_A_HOST)])
        for url in (
            *(
                "http://",
                "http:/a",
                "http:a",
                "http:///a",
                "http://:80/",
                "http://a:/",
                "http://a:0/",
                "http://?a",
                "http://a:000080/",
            ),
            *(
                "http://*.run.app/",
                "http://.a/",
                "http://a..b/",
                "http://a%2fb/",
                "http://a,b/",
                "http://a;b/",
                "http://a\\b/",
            ),
            *("http://[fe80::1%25eth0]/", "http://[v1.x]/", f"http://{'a' * 64}.b/", f"http://{'a.' * 127}/"),
        )
    ),
    *(
        ({"url": url}, [("url", "must have a valid host, and a port from 1 to 65535")])
        for url in ("http://a:65536/", "http://a:x/", "http://a:-1/", "http://[::1/", "http://[a]/")
    ),
    *(
        ({"url": url}, [("url", NOT_ASCII)])
        for url in (
            "http://a/ b",
            "http://a/é",
            "http://a/\n",
            "http://a/\0",
            "http://a/\x7f",
            "http://a/?\t",
            "\ud800",
        )
    ),
    *(
        ({"url": url}, [("url", NO_FRAGMENT)])
        for url in ("http://a/#", "http://a#b", "http://a/?b#c", "http://a/%23#/../")
    ),
    *(({"url": url}, [("url", INTERNATIONAL)]) for url in ("http://bücher.example/", "http://a\u3002b/", "http://é")),
    ({"url": "http://a\\@b/"}, [("url", "must not contain a user name or password")]),
    *(({"url": f"http://a/{end}"}, [("url", PERCENT)]) for end in ("%", "%4", "%g1", "a%%20", "?q=%", "%u002e")),
    ({"url": "http://a/" + "x" * 8184}, [("url", "must take at most 8192 characters, got 8193")]),
    ({"method": "get"}, [("method", "must be one of 'GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE' or 'OPTIONS'")]),
    (
        {"method": "CONNECT"},
        [("method", "must be one of 'GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE' or 'OPTIONS'")],
    ),
    ({"headers": []}, [("headers", "must be an object")]),
    ({"headers": {"x": 1}}, [("headers.x", "must be a string")]),
    ({"headers": {"x": ["1", "2"]}}, [("headers.x", "must be a string")]),
    ({"headers": {"x": "\ud800"}}, [("headers.x", "must be printable ASCII without leading or trailing spaces")]),
    (
        {"headers": {"Host": "b", "x": "a\r\nb"}},
        [
            ("headers.Host", "is set by the relay or belongs to the connection; a call cannot set it"),
            ("headers.x", "must be printable ASCII without leading or trailing spaces"),
        ],
    ),
    (
        {"headers": {"a b": "1"}, "surprise": 1},
        [
            ("surprise", "is not a known field"),
            ("headers.a b", "must be a header name: letters, digits and !#$%&'*+-.^_`|~ only"),
        ],
    ),
    ({"body": "\ud800"}, [("body", NOT_UNICODE)]),
    ({"body": {"a": ["\udfff"]}}, [("body", NOT_UNICODE)]),
    ({"body": 1, "body_base64": "YQ=="}, [("body_base64", "must not be given together with body")]),
    ({"body": None, "body_base64": None}, [("body_base64", "must not be given together with body")]),
    ({"body_base64": "YQ"}, [("body_base64", BASE64)]),
    ({"body_base64": "Y Q=="}, [("body_base64", BASE64)]),
    ({"body_base64": "_w=="}, [("body_base64", BASE64)]),
    ({"body_base64": "é"}, [("body_base64", BASE64)]),
    ({"body_base64": 5}, [("body_base64", "must be a string")]),
    ({"queue": 5}, [("queue", "must be a string")]),
    ({"route": "sideways"}, [("route", "must be one of 'relay' or 'direct'")]),
    ({"schedule_time": "soon"}, [("schedule_time", 'must be an RFC 3339 time such as "2026-11-21T18:00:00Z"')]),
    ({"schedule_time": 1_795_284_000}, [("schedule_time", 'must be an RFC 3339 time such as "2026-11-21T18:00:00Z"')]),
    (
        {"schedule_time": "2026-11-21T18:00:00Z", "delay": "5s"},
        [("delay", "must not be given together with schedule_time")],
    ),
    ({"delay": "-5s"}, [("delay", DURATION)]),
    ({"delay": 5}, [("delay", DURATION)]),
    ({"delay": "31d"}, [("delay", "must be at most 30d, got 31d")]),
    ({"delay": "9" * 12 + "s"}, [("delay", "must be at most 30d, got 999999999999s")]),
    ({"timeout": "-1s"}, [("timeout", DURATION)]),
    ({"timeout": "0s"}, [("timeout", "must be more than 0s, got 0s")]),
    ({"timeout": "9" * 400 + "s"}, [("timeout", DURATION)]),
    ({"timeout": True}, [("timeout", DURATION)]),
    ({"idempotent": 1}, [("idempotent", "must be true or false")]),
    ({"idempotent": "true"}, [("idempotent", "must be true or false")]),
    ({"retry": []}, [("retry", "must be an object")]),
    ({"retry": {"tries": 3}}, [("retry.tries", "is not a known field")]),
    ({"retry": {"max_attempts": 0}}, [("retry.max_attempts", "must be at least 1, got 0")]),
    ({"retry": {"max_attempts": True}}, [("retry.max_attempts", "must be an integer")]),
    ({"retry": {"max_attempts": 5.0}}, [("retry.max_attempts", "must be an integer")]),
    ({"retry": {"max_attempts": "5"}}, [("retry.max_attempts", "must be an integer")]),
    ({"retry": {"max_attempts": 10**399}}, [("retry.max_attempts", f"must be at most 10000, got {'1' + '0' * 39}")]),
    ({"retry": {"max_retry_duration": "366d"}}, [("retry.max_retry_duration", "must be at most 365d, got 366d")]),
    ({"retry": {"min_backoff": "31d", "max_backoff": "1s"}}, [("retry.min_backoff", "must be at most 30d, got 31d")]),
    ({"retry": {"max_doublings": -1}}, [("retry.max_doublings", "must be at least 0, got -1")]),
    ({"retry": {"jitter": "some"}}, [("retry.jitter", "must be one of 'full', 'equal' or 'none'")]),
    ({"url": ("http://a/",)}, [("url", "must be a string, got a list")]),
    ({"retry": {"retryable_status_codes": 503}}, [("retry.retryable_status_codes", "must be a list")]),
    (
        {"retry": {"retryable_status_codes": [503, 200, "429", True, 600]}},
        [
            ("retry.retryable_status_codes.1", "must be at least 400, got 200"),
            ("retry.retryable_status_codes.2", "must be an integer"),
            ("retry.retryable_status_codes.3", "must be an integer"),
            ("retry.retryable_status_codes.4", "must be at most 599, got 600"),
        ],
    ),
    ({"callback": "https://a/"}, [("callback", "must be an object")]),
    ({"callback": {}}, [("callback.url", "is required")]),
    ({"callback": {"url": "ftp://a/"}}, [("callback.url", "must start with http:// or https://")]),
    ({"callback": {"url": URL, "on": []}}, [("callback.on", "must be at least 1 long")]),
    ({"callback": {"url": URL, "on": "failed"}}, [("callback.on", "must be a list")]),
    (
        {"callback": {"url": URL, "on": ["failed", "lost"]}},
        [("callback.on.1", "must be one of 'succeeded', 'failed' or 'cancelled'")],
    ),
    ({"labels": "a"}, [("labels", "must be an object")]),
    ({"labels": {"team": 5}}, [("labels.team", "must be a string")]),
    ({"labels": {"": "x"}}, [("labels.", "must be at least 1 long")]),
    ({"labels": {"k" * 64: "x"}}, [(f"labels.{'k' * 64}", "must be at most 63 long")]),
    ({"labels": {"team": "x" * 257}}, [("labels.team", "must be at most 256 long")]),
    ({"labels": {"team": "a\nb"}}, [("labels.team", "must not contain control characters")]),
    ({"labels": {"te\x85am": "a"}}, [("labels.te\x85am", "must not contain control characters")]),
    ({"labels": {"team": "\ud800"}}, [("labels.team", NOT_UNICODE)]),
    ({"labels": {f"k{number}": "x" for number in range(17)}}, [("labels", "must be at most 16 long")]),
    ({"surprise": {}}, [("surprise", "is not a known field")]),
    ({"URL": URL}, [("URL", "is not a known field")]),
]


@pytest.mark.parametrize(("changes", "errors"), WRONG)
def test_every_broken_rule_is_named_in_plain_words(changes: dict[str, Any], errors: list[tuple[str, str]]) -> None:
    with pytest.raises(InvalidCall) as refused:
        enqueue_request({"url": URL} | changes)
    told = refused.value.errors
    assert [(error.field, error.message[: len(rule)]) for error, (_, rule) in zip(told, errors, strict=True)] == errors
    assert refused.value.status == 422
    assert refused.value.detail == "; ".join(f"{error.field} {error.message}" for error in told[:3])


@pytest.mark.parametrize(
    ("changes", "got"),
    [
        ({"url": "ftp://a/?secret"}, "'ftp'"),
        ({"url": "/build?secret"}, "''"),
        ({"url": "http://a..b:1/secret?secret"}, "'a..b:1'"),
        ({"url": "http://user:secret@a:65536/"}, "'a:65536'"),
        ({"url": "http://user:secret@b\xfccher.example/"}, "'b\\xfccher.example'"),
        ({"url": f"http://{'a' * 64}.b/"}, f"'{'a' * 60}' and 6 more"),
        ({"url": "http://a/?secret#secret"}, "# at character 17"),
        ({"url": "http://a/?secret\u202e"}, "'\\u202e' at character 17"),
        ({"url": "http://a/?secret%zz"}, "another % at character 17"),
        ({"callback": {"url": "http://a/#"}}, "# at character 10"),
        ({"callback": {"url": URL, "on": ["lost"]}}, "'lost'"),
        ({"queue": 5}, "a number"),
        ({"queue": ["relay"]}, "a list"),
        ({"method": "get"}, "'get'"),
        ({"method": True}, "true"),
        ({"headers": {"x": 1}}, "a number"),
        ({"delay": "soon"}, "'soon'"),
        ({"delay": 5}, "a number"),
        ({"schedule_time": "soon"}, "'soon'"),
        ({"labels": {"team": "a\n\xe9"}}, "'a\\n\\xe9'"),
        ({"labels": {"team": "x" * 257}}, "257"),
        ({"callback": {"url": URL, "on": []}}, "0"),
    ],
)
def test_an_error_shows_the_value_but_nothing_secret(changes: dict[str, Any], got: str) -> None:
    with pytest.raises(InvalidCall) as refused:
        enqueue_request({"url": URL} | changes)
    assert refused.value.detail.partition(", got ")[2] == got
    assert "secret" not in refused.value.detail


@pytest.mark.parametrize(
    ("field", "got"),
    [("\xe9", "'\\xe9'"), ("", "''"), ('"a', "'\"a'"), ("k" * 256, f"'{'k' * 60}' and 196 more"), ("a, b", "2 keys")],
)
def test_a_refused_key_is_shown(field: str, got: str) -> None:
    with pytest.raises(InvalidCall) as refused:
        idempotency_key(field)
    assert refused.value.detail.partition(", got ")[2] == got


@pytest.mark.parametrize("document", [None, True, 5, 2.5, "text", [], [{"url": URL}]])
def test_a_body_that_is_not_an_object_is_refused(document: Any) -> None:
    with pytest.raises(InvalidCall) as refused:
        enqueue_request(document)
    (error,) = refused.value.errors
    assert (error.field, error.message.partition(", got ")[0]) == ("request", "must be an object")


def test_an_incomplete_policy_is_not_compared() -> None:
    given = enqueue_request({"url": URL, "retry": {"min_backoff": "10m"}}).retry
    assert given is not None
    assert given.model_fields_set == {"min_backoff"}
    backwards = {"min_backoff": "10s", "max_backoff": "9s"}
    assert enqueue_request({"url": URL, "retry": backwards}).retry is not None
    with pytest.raises(InvalidCall) as refused:
        read(RetryPolicy, backwards, "retry.")
    assert refused.value.errors == (FieldError("retry.max_backoff", "must be at least min_backoff, 10s, got 9s"),)


def test_an_empty_object_lacks_only_its_url() -> None:
    with pytest.raises(InvalidCall, match=r"^url is required$"):
        enqueue_request({})


def test_a_lone_surrogate_in_a_name_is_refused_at_any_depth() -> None:
    for document in (
        {"url": URL, "\ud800": 1},
        {"url": URL, "labels": {"\ud800": "x"}},
        {"url": URL, "body": {"\ud800": 1}},
    ):
        with pytest.raises(InvalidCall, match=NOT_UNICODE):
            enqueue_request(document)


def test_at_most_fifty_short_errors_are_returned() -> None:
    with pytest.raises(InvalidCall) as refused:
        enqueue_request({"url": URL} | {f"{number}" + "x" * 5000: number for number in range(1000)})
    assert len(refused.value.errors) == 50
    assert max(len(error.field) for error in refused.value.errors) == 300


def test_a_whole_request_is_taken_as_it_is() -> None:
    document = {
        "url": URL,
        "method": "PUT",
        "headers": {"content-type": "application/json"},
        "body": {"report": 7},
        "queue": "relay",
        "route": "relay",
        "delay": "10m",
        "timeout": "1.5s",
        "retry": {
            "max_attempts": 3,
            "max_retry_duration": "1h",
            "min_backoff": "1s",
            "max_backoff": "5m",
            "max_doublings": 8,
            "jitter": "equal",
            "retryable_status_codes": [429, 500],
        },
        "idempotent": True,
        "callback": {"url": "https://hooks.example.com/", "on": ["failed"]},
        "labels": {"team": "billing"},
    }
    written = json.loads(enqueue_request(document).model_dump_json())
    assert written == document | {"body_base64": None, "schedule_time": None}


FIELDS = st.sampled_from(
    [
        *("url", "method", "headers", "body", "body_base64", "queue", "route", "schedule_time", "delay", "timeout"),
        *("retry", "idempotent", "callback", "labels", "max_attempts", "min_backoff", "max_backoff", "jitter", "on"),
        *("retryable_status_codes", "max_doublings", "max_retry_duration", "x-header"),
    ]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(10**300), 10**300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet=st.characters(exclude_categories=[]))
    | st.sampled_from([URL, "POST", "1s", "10d", "YQ==", "2026-11-21T18:00:00Z", "full", "direct", "failed"])
)
DOCUMENTS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELDS | st.text(), inner, max_size=6),
    max_leaves=25,
)


@given(DOCUMENTS | st.dictionaries(FIELDS, DOCUMENTS).map(lambda document: {"url": URL} | document))
def test_no_json_raises_anything_but_invalid_call(document: Any) -> None:
    with suppress(InvalidCall):
        parsed = strict_json.loads(strict_json.canonical(document))
        request = enqueue_request(without_nulls(EnqueueRequest, parsed))
        body, content_type = request.content()
        assert isinstance(body, bytes)
        assert all(value.isascii() for value in with_content_type(request.headers, content_type).values())


@given(DOCUMENTS | st.dictionaries(FIELDS, DOCUMENTS))
def test_a_document_without_nulls_stays_unchanged(document: Any) -> None:
    once = without_nulls(EnqueueRequest, document)
    assert without_nulls(EnqueueRequest, once) == once
    if isinstance(once, dict):
        assert not [name for name, value in once.items() if value is None and name in EnqueueRequest.model_fields]
        assert once.get("body") == document.get("body")


KEYS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=255)


@given(KEYS, st.integers(1, 3))
def test_every_printable_key_can_be_quoted(key: str, lines: int) -> None:
    quoted = '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert idempotency_key(",".join([quoted] * lines)) == key


@given(st.text(st.characters(max_codepoint=0xFF)) | st.text(st.sampled_from('k",\\ \t')))
def test_no_key_raises_anything_but_invalid_call(field: str) -> None:
    with suppress(InvalidCall):
        key = idempotency_key(field)
        assert key is not None
        assert 1 <= len(key) <= 255
