from __future__ import annotations

import gzip
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from threading import Barrier
from typing import TYPE_CHECKING, NoReturn

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from werkzeug.wrappers import Response as Answer

import traced_relay
from support.example_rows import TASK_ID
from support.hostile_urls import Names
from support.raw_downstream import OK, RawDownstream, says, says_by_turns
from support.sending import PLAIN, PUBLIC, TOKEN, no_token, sent, sent_to
from traced_relay.downstream.sender import BODY_KEPT, HEADERS_KEPT, Exchange, Sender, Timing
from traced_relay.errors import IdentityFailed
from traced_relay.runtime.clock import ManualClock, SystemClock
from traced_relay.tasks.call import Url
from traced_relay.tasks.retry import AttemptResult
from traced_relay.tasks.row import Response
from traced_relay.testing import Downstream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from traced_relay.downstream.rules import Downstream as Rule
    from traced_relay.testing import Arrived


# As they are given behind the port; what urllib3, requests or a browser would write otherwise.
TARGETS = r"""
    / ? /? ?x /x? /x?? /x?? /%61 /%2c /%2C /%7e /~ /a%2Fb /%00 /%c3%A9 /ids[]=1 /?ids[]=1&ids%5B%5D=2 /a|b /?a|b
    /"<>^`{}\ /?"<>^`{}\ /. /.. /./a /../a /a/./b /a/../b /a/.. /%2e%2e/a //a //a//b// ///
    /a;b /a;b=c/..;/d /?a=b+c%20d /?u=http://b@c/d?e /@ /:80 /a:b /*'()!$&, /?= /?& /-._~
    /bucket/key?X-Amz-Credential=K%2f20261130%2Fus&X-Amz-Signature=0aF%3d
"""


def on_the_wire(sender: Sender, target: str) -> bytes:
    with RawDownstream(says(OK, b"Content-Length: 0\r\n\r\n")) as downstream:
        assert sent(sender, f"http://127.0.0.1:{downstream.port}{target}").ending == AttemptResult(200, None)
        return target_of(downstream.requests[0])


def target_of(request: bytes) -> bytes:
    method, target, version = request.partition(b"\r\n")[0].split(b" ")
    assert (method, version) == (b"POST", b"HTTP/1.1")
    return target


@pytest.fixture
def sender() -> Iterator[Sender]:
    made = Sender(SystemClock(), no_token)
    yield made
    made.close()


def test_a_call_goes_out_as_it_was_enqueued_with_its_key(sender: Sender) -> None:
    with Downstream() as downstream:
        exchange = sent(
            sender,
            f"{downstream.url}/a%20b/c?d=%2F&e",
            method="PUT",
            headers={"Content-Type": "text/csv", "X-Team": "billing", "Accept-Encoding": "gzip"},
            body=b"a;b\x00\xff",
        )
        [arrived] = downstream.arrived
    assert exchange.ending == AttemptResult(200, None)
    assert (arrived.method, arrived.path, arrived.body) == ("PUT", "/a b/c?d=%2F&e", b"a;b\x00\xff")
    own = {name: value for name, value in arrived.headers.items() if name not in ("traceparent", "tracestate")}
    assert own == {
        "host": downstream.url.removeprefix("http://"),
        "accept": "*/*",
        "user-agent": f"traced-relay/{traced_relay.__version__}",
        "content-type": "text/csv",
        "x-team": "billing",
        "accept-encoding": "identity",
        "idempotency-key": TASK_ID,
        "content-length": "5",
    }


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_every_method_is_made(sender: Sender, method: str) -> None:
    with Downstream() as downstream:
        assert sent(sender, downstream.url, method=method).ending == AttemptResult(200, None)
        assert downstream.arrived[0].method == method


SENDS = """
import sys
from traced_relay.tasks.call import Call, RetryPolicy
from traced_relay.runtime.clock import SystemClock
from traced_relay.downstream.rules import Downstream
from traced_relay.downstream.sender import Sender
from traced_relay.runtime.watchdog import Watchdog

sender = Sender(SystemClock(), str)
rule = Downstream(name="any", url="http://*:*/", auth="none", allow_private=True)
with Watchdog(SystemClock()).over(5.0) as guard:
    call = Call(url=sys.argv[1], timeout=5.0, retry=RetryPolicy())
    print(sender.send(call, rule, {}, guard).ending.status_code)
"""


@pytest.mark.whole
def test_the_environment_adds_no_password_and_no_proxy(tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password secret\n")
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"), "http://user:secret@127.0.0.1:9")
    with Downstream() as downstream:
        done = subprocess.run(
            [sys.executable, "-c", SENDS, downstream.url],
            env=proxies | {"NETRC": str(tmp_path / "netrc"), "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        [arrived] = downstream.arrived
    assert done.stdout == "200\n"
    assert not {"authorization", "proxy-authorization"} & arrived.headers.keys()


def test_cookies_are_neither_kept_nor_shown(sender: Sender) -> None:
    with Downstream(Answer(headers={"Set-Cookie": "a=b", "X-Other": "1"})) as downstream:
        first, _ = sent(sender, downstream.url), sent(sender, downstream.url)
        assert "cookie" not in downstream.arrived[1].headers
    assert first.response is not None
    assert first.response.headers["x-other"] == "1"
    assert "set-cookie" not in first.response.headers


@pytest.mark.parametrize(
    ("status", "reason"),
    [(200, None), (201, None), (299, None), (400, "http_400"), (404, "http_404"), (429, "http_429"), (503, "http_503")],
)
def test_an_answer_is_data_whatever_its_status(sender: Sender, status: int, reason: str | None) -> None:
    exchange = sent_to(sender, says(b"HTTP/1.1 %d Any\r\nX-A: \xff\r\nContent-Length: 2\r\n\r\nok" % status))
    assert exchange.ending == AttemptResult(status, reason)
    assert exchange.response == Response(status_code=status, headers={"x-a": "ÿ", "content-length": "2"}, body=b"ok")
    assert exchange.response_size == 2


@pytest.mark.parametrize("location", ["/elsewhere", "http://127.0.0.1:9/", "http://[", "http://a:99999/", "", "\xff"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_its_answer_kept(sender: Sender, status: int, location: str) -> None:
    head = f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 4\r\n\r\n".encode("latin-1")
    exchange = sent_to(sender, says(head, b"gone"))
    assert exchange.ending == AttemptResult(status, "redirect")
    assert exchange.response is not None
    assert exchange.response.body == b"gone"


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        ((OK, b"Content-Length: 3\r\n\r\n", b"abc"), b"abc"),
        ((OK, b"\r\n", b"until the end"), b"until the end"),
        ((OK, b"Transfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: x\r\n\r\n"), b"abcde"),
        ((b"HTTP/1.0 200 OK\r\n\r\n", b"old"), b"old"),
        ((b"HTTP/1.1 204 No Content\r\n\r\n",), b""),
        ((b"HTTP/1.1 100 Continue\r\n\r\n", OK, b"Content-Length: 1\r\n\r\na"), b"a"),
        (
            (OK, b"Content-Encoding: gzip\r\n\r\n", gzip.compress(b"x" * 1_000_000, mtime=0)),
            gzip.compress(b"x" * 1_000_000, mtime=0),
        ),
        ((OK, b"Content-Encoding: gzip\r\n\r\n", b"no gzip"), b"no gzip"),
    ],
    ids=range(8),
)
def test_a_body_is_kept_as_it_came(sender: Sender, answer: tuple[bytes, ...], body: bytes) -> None:
    exchange = sent_to(sender, says(*answer))
    assert (exchange.ending.reason, exchange.response_size) == (None, len(body))
    assert exchange.response is not None
    assert (exchange.response.body, exchange.response.truncated) == (body, False)


@pytest.mark.parametrize("size", [BODY_KEPT, BODY_KEPT + 1, 10 * BODY_KEPT])
def test_a_long_body_is_counted_and_cut(sender: Sender, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    exchange = sent_to(sender, says(OK, b"Content-Length: %d\r\n\r\n" % size, body))
    assert exchange.ending == AttemptResult(200, None)
    assert exchange.response_size == size
    assert exchange.response is not None
    assert (exchange.response.body, exchange.response.truncated) == (body[:BODY_KEPT], size > BODY_KEPT)


def test_headers_are_kept_while_they_fit(sender: Sender) -> None:
    lines = b"".join(b"X-%d: %s\r\n" % (number, b"v" * 1000) for number in range(20))
    response = sent_to(sender, says(OK, b"Content-Length: 0\r\n", lines, b"\r\n")).response
    assert response is not None
    assert 7000 < sum(len(name) + len(value) for name, value in response.headers.items()) <= HEADERS_KEPT


def test_repeated_headers_are_joined(sender: Sender) -> None:
    response = sent_to(sender, says(OK, b"X-A: 1\r\nx-a: 2\r\nContent-Length: 0\r\n\r\n")).response
    assert response is not None
    assert response.headers["x-a"] == "1, 2"


@pytest.mark.parametrize(
    ("value", "seconds"), [("7", 7.0), (formatdate(1_790_000_090, usegmt=True), 90.0), ("soon", None)]
)
def test_a_retry_after_is_read_by_the_clock(value: str, seconds: float | None) -> None:
    sender = Sender(ManualClock(1_790_000_000.0), no_token)
    exchange = sent_to(
        sender, says(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nRetry-After: " + value.encode() + b"\r\n\r\n")
    )
    assert exchange.ending == AttemptResult(503, "http_503", retry_after=seconds)
    sender.close()


@pytest.mark.parametrize("target", TARGETS.split())
def test_the_target_on_the_wire_is_the_one_given(sender: Sender, target: str) -> None:
    assert on_the_wire(sender, target) == (target if target.startswith("/") else f"/{target}").encode()


def test_any_url_that_is_taken_is_sent_byte_for_byte(sender: Sender) -> None:
    with RawDownstream(says(OK, b"Content-Length: 0\r\nConnection: close\r\n\r\n")) as downstream:

        @given(st.from_regex(r"[/?]([!-~]|%[0-9A-Fa-f]{2}|/\.{1,2}/|\?|//){0,20}", fullmatch=True))
        @settings(max_examples=150, deadline=None)
        def is_sent(end: str) -> None:
            url = f"http://127.0.0.1:{downstream.port}{end}"
            try:
                TypeAdapter(Url).validate_python(url)
            except ValidationError:
                reject()
            assert sent(sender, url).ending == AttemptResult(200, None)
            assert target_of(downstream.requests[-1]) == (end if end.startswith("/") else f"/{end}").encode()

        is_sent()


def test_the_host_header_is_the_normalised_authority() -> None:
    sender = Sender(SystemClock(), no_token, resolve=Names())
    with RawDownstream(says(OK, b"Content-Length: 0\r\n\r\n")) as downstream:
        sent(sender, f"HTTP://LocalHost.:{downstream.port}/X")
        sender.close()
        assert f"\r\nHost: localhost:{downstream.port}\r\n".encode() in downstream.requests[0]
        assert downstream.requests[0].startswith(b"POST /X HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("url", "rule", "detail"),
    [
        ("http://10.1.2.3/", PUBLIC, "an address in 10.0.0.0/8 (private), and its rule has no allow_private: true"),
        ("http://240.0.0.1/", PUBLIC, "an address in 240.0.0.0/4 (class E), and its rule has no allow_private: true"),
        ("http://169.254.169.254/", PLAIN, "169.254.0.0/16 (link-local, metadata server), and no rule can allow that"),
        ("http://[fd20:ce::254]/", PLAIN, "(Google Cloud's metadata server), and no rule can allow that"),
    ],
)
def test_a_denied_address_is_told_by_its_range_alone(sender: Sender, url: str, rule: Rule, detail: str) -> None:
    exchange = sent(sender, url, rule)
    assert exchange.ending == AttemptResult(None, "denied", was_sent=False)
    assert str(exchange.detail).endswith(detail)
    assert "10.1.2.3" not in str(exchange.detail)


def test_without_a_rule_nothing_is_sent(sender: Sender) -> None:
    with RawDownstream(says(OK)) as downstream:
        exchange = sent(sender, f"http://127.0.0.1:{downstream.port}/", None)
        assert downstream.connections == 0
    assert exchange == Exchange(AttemptResult(None, "denied", was_sent=False), Timing())


def test_an_id_token_is_asked_for_by_the_rules_audience() -> None:
    asked: list[str] = []

    def token(audience: str) -> str:
        asked.append(audience)
        return "secret"

    sender = Sender(SystemClock(), token)
    with RawDownstream(says(), reads=False) as downstream:
        origin = f"https://localhost:{downstream.port}"
        exchange = sent(sender, f"{origin}/build", TOKEN)
    sender.close()
    assert asked == [origin]
    assert exchange.timing.token_ms is not None


def test_without_an_id_token_nothing_is_sent(sender: Sender) -> None:
    def fail(audience: str) -> NoReturn:
        raise IdentityFailed(f"no ID token for {audience}")

    anonymous = Sender(SystemClock(), fail)
    with RawDownstream(says(OK)) as downstream:
        exchange = sent(anonymous, f"https://localhost:{downstream.port}/", TOKEN)
        to_an_address = sent(sender, f"https://127.0.0.1:{downstream.port}/", TOKEN)
        in_the_clear = sent(sender, f"http://127.0.0.1:{downstream.port}/", TOKEN)
        assert downstream.connections == 0
    anonymous.close()
    assert exchange.detail == f"no ID token for https://localhost:{downstream.port}"
    assert to_an_address.detail == in_the_clear.detail == "no ID token: it is sent over https to a host name only"
    unsent = AttemptResult(None, "auth_unavailable", was_sent=False)
    assert exchange.ending == to_an_address.ending == in_the_clear.ending == unsent


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: 3\r\n\r\nabc",
        OK + b"Content-Length: 0\r\n\r\n",
        OK + b"Content-Length: 200000\r\n\r\n" + b"x" * 200_000,
        OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 503 Busy\r\nContent-Length: 3\r\n\r\nabc",
    ],
    ids=range(7),
)
def test_connections_are_kept_and_timed_when_they_open(sender: Sender, answer: bytes) -> None:
    with RawDownstream(says_by_turns(answer, answer)) as downstream:
        url = f"http://127.0.0.1:{downstream.port}/"
        first, second = sent(sender, url).timing, sent(sender, url).timing
        assert downstream.connections == 1
    assert (first.connect_ms is None, second.connect_ms is None) == (False, True)
    assert (first.tls_ms, first.token_ms) == (None, None)
    for timing in (first, second):
        assert timing.first_byte_ms is not None
        assert timing.body_ms is not None


def test_a_kept_connection_that_the_downstream_closed_is_not_used(sender: Sender) -> None:
    with RawDownstream(says(OK, b"Content-Length: 0\r\n\r\n")) as downstream:
        url = f"http://127.0.0.1:{downstream.port}/"
        assert sent(sender, url).ending == AttemptResult(200, None)
        assert downstream.closed.wait(5)
        assert sent(sender, url).ending == AttemptResult(200, None)
        assert downstream.connections == 2


def test_more_calls_at_once_than_connections_are_kept_are_all_made() -> None:
    together = Barrier(6)

    def meet(_: Arrived) -> Answer:
        together.wait(5)
        return Answer("ok")

    narrow = Sender(SystemClock(), no_token, connections=2)
    with Downstream(*[meet] * 6) as downstream, ThreadPoolExecutor(6) as pool:
        endings = [pool.submit(sent, narrow, downstream.url) for _ in range(6)]
        assert {ending.result().ending for ending in endings} == {AttemptResult(200, None)}
    narrow.close()
