from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from support.example_rows import call
from support.hostile_urls import BY_NAME, CORPUS, ELSEWHERE, LOOPBACK, NAMES, PRIVATE, Names
from support.house import ROOT
from support.local_ca import Authority
from support.loopback import EMPTY, Loopback
from support.raw_downstream import OK, RawDownstream, says, says_and_stays
from support.sending import PLAIN, PUBLIC, TLS, TOKEN, made, no_token, sent
from traced_relay.downstream.sender import Sender
from traced_relay.runtime.clock import SystemClock
from traced_relay.tasks.retry import AttemptResult

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traced_relay.downstream.rules import Downstream as Rule

DENIED = AttemptResult(None, "denied", was_sent=False)


@pytest.fixture
def loopback() -> Iterator[Loopback]:
    with Loopback() as listening:
        yield listening


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
def sender(names: Names) -> Iterator[Sender]:
    made = Sender(SystemClock(), no_token, resolve=names)
    yield made
    made.close()


def ending(sender: Sender, url: str, rule: Rule) -> AttemptResult:
    """How a call of *url* ends that no border has looked at."""
    return made(sender, call(timeout=5.0).changed(url=url), rule).ending


def test_the_corpus_is_large_without_duplicates() -> None:
    assert len(set(CORPUS)) == len(CORPUS) >= 90


def test_no_spelling_of_a_private_address_is_connected_to(sender: Sender, loopback: Loopback) -> None:
    endings = {url: ending(sender, url, PUBLIC) for url in loopback.meant(CORPUS)}
    assert loopback.came == 0
    assert {end.was_sent for end in endings.values()} == {False}
    assert {end.reason for url, end in endings.items() if "nothing." not in url} == {"denied", "dns_failed"}
    known = [url for url in loopback.meant([*BY_NAME, *ELSEWHERE.split(), *PRIVATE.split()]) if "nothing." not in url]
    assert {url: endings[url].reason for url in known} == dict.fromkeys(known, "denied")


def test_loopback_needs_allow_private_and_metadata_is_denied(sender: Sender, loopback: Loopback) -> None:
    reached = [url for url in loopback.meant(LOOPBACK) if ending(sender, url, PLAIN).status_code == 200]
    assert len(reached) >= 25
    came = loopback.came
    assert {ending(sender, url, PLAIN) for url in loopback.meant(ELSEWHERE)} == {DENIED}
    assert ending(sender, "http://metadata.google.internal/", PLAIN) == DENIED
    assert loopback.came == came


@pytest.mark.whole
def test_plain_requests_connects_where_the_sender_refuses(
    sender: Sender, loopback: Loopback, capsys: pytest.CaptureFixture[str]
) -> None:
    for url in loopback.meant(CORPUS):
        ending(sender, url, PUBLIC)
    own = loopback.came
    ran = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "support" / "plain_requests.py")],
        input=json.dumps(loopback.meant(CORPUS)),
        env={"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    went: dict[str, str] = json.loads(ran.stdout)
    elsewhere = [url for url, where in went.items() if where[0].isdigit() or ":" in where]
    with capsys.disabled():
        sys.stdout.write(
            f"\nof {len(CORPUS)} hostile URLs the sender connected to {own};"
            f" plain requests to {loopback.came - own} on loopback and would have to {len(elsewhere)} elsewhere\n"
        )
    assert own == 0
    assert loopback.came >= 25
    assert len(elsewhere) >= 30


def test_a_redirect_to_a_private_address_is_not_followed(sender: Sender, loopback: Loopback) -> None:
    for status in (301, 302, 303, 307, 308):
        head = b"HTTP/1.1 %d Moved\r\nLocation: http://127.0.0.1:%d/\r\n" % (status, loopback.port)
        with RawDownstream(says(head, EMPTY)) as downstream:
            assert sent(sender, f"http://127.0.0.1:{downstream.port}/").ending == AttemptResult(status, "redirect")
    assert loopback.came == 0


def test_a_name_is_resolved_once_and_the_checked_address_called(
    sender: Sender, names: Names, loopback: Loopback
) -> None:
    assert ending(sender, f"http://rebinding.example:{loopback.port}/", PLAIN).status_code == 200
    assert (names.asked, loopback.came) == (["rebinding.example"], 1)
    assert ending(sender, f"http://rebinding.example:{loopback.port}/again", PLAIN) == DENIED


def test_only_the_allowed_one_of_several_addresses_is_called(sender: Sender, loopback: Loopback) -> None:
    for name in ("mixed.example", "mixed6.example"):
        assert ending(sender, f"http://{name}:{loopback.port}/", PUBLIC) == DENIED
        assert ending(sender, f"http://{name}:{loopback.port}/", PLAIN).status_code == 200
    assert loopback.came == 2


def test_a_refusing_address_is_followed_by_the_next(names: Names) -> None:
    names.answers = {"two.example": [["127.0.0.9", "127.0.0.1"]]}
    sender = Sender(SystemClock(), no_token, resolve=names)
    with RawDownstream(says(OK, EMPTY)) as downstream:
        assert ending(sender, f"http://two.example:{downstream.port}/", PLAIN) == AttemptResult(200, None)
    sender.close()


def test_a_connection_kept_for_one_rule_serves_no_stricter_one(sender: Sender) -> None:
    with RawDownstream(says_and_stays(OK, EMPTY)) as downstream:
        url = f"http://127.0.0.1:{downstream.port}/"
        assert sent(sender, url, PLAIN).ending == AttemptResult(200, None)
        assert sent(sender, url, PUBLIC).ending == DENIED
        assert len(downstream.requests) == downstream.connections == 1


def test_a_call_over_tls_checks_the_name_of_the_certificate(tmp_path: Any, names: Names) -> None:
    authority = Authority(tmp_path)
    names.answers = {"good.example": [["127.0.0.1"]]}
    sender = Sender(SystemClock(), lambda _: "the token", tls=authority.client(), resolve=names)
    with RawDownstream(says(OK, EMPTY), tls=authority.server("good.example")) as downstream:
        for rule, has_token in ((TLS, False), (TOKEN, True)):
            exchange = sent(sender, f"https://good.example:{downstream.port}/", rule)
            assert exchange.ending == AttemptResult(200, None)
            assert exchange.timing.tls_ms is not None
            assert (b"\r\nauthorization: Bearer the token\r\n" in downstream.requests[-1]) is has_token
    sender.close()


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_the_corpus_reaches_the_given_resolver(names: Names, name: str) -> None:
    sender = Sender(SystemClock(), no_token, resolve=names)
    assert ending(sender, f"http://{name}/", PUBLIC).reason in ("denied", "connect_failed")
    assert names.asked == [name]
    sender.close()
