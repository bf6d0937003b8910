"""Which connections are kept, for how long they are used, and what breaks on them."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

import pytest

from support.local_ca import Authority
from support.raw_downstream import OK, RawDownstream, says, says_and_resets, says_by_turns
from support.sending import PLAIN, TLS, no_token, sent
from traced_relay.downstream.sender import Sender
from traced_relay.runtime.clock import ManualClock
from traced_relay.tasks.retry import AttemptResult

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from threading import Event

    from support.raw_downstream import Behaviour

WHOLE = OK + b"Content-Length: 2\r\n\r\nok"
STALE = AttemptResult(None, "stale_connection")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def sender(clock: ManualClock) -> Iterator[Sender]:
    made = Sender(clock, no_token)
    yield made
    made.close()


def url_of(downstream: RawDownstream) -> str:
    return f"http://127.0.0.1:{downstream.port}/"


def whole(*lines: bytes) -> bytes:
    return OK + b"".join(line + b"\r\n" for line in lines) + b"Content-Length: 2\r\n\r\nok"


ONCE, AGAIN = False, True


@pytest.mark.parametrize(
    ("keep_alive", "idle", "idempotent", "is_used"),
    [
        (None, 0.49, ONCE, True),
        (None, 0.51, ONCE, False),
        (None, 0.99, ONCE, False),
        (None, 3600, ONCE, False),
        (None, 3600, AGAIN, True),
        (b"timeout=1", 0.49, ONCE, True),
        *((b"timeout=1", idle, ONCE, False) for idle in (0.51, 0.93, 0.99, 1.03)),
        (b"timeout=1", 0.93, AGAIN, False),
        (b"timeout=5", 0.49, ONCE, True),
        (b"timeout=5", 0.99, ONCE, False),
        (b"timeout=5", 2.4, AGAIN, True),
        (b"timeout=5", 2.6, AGAIN, False),
        (b"timeout=" + b"9" * 400, 0.99, ONCE, False),
        (b"timeout=" + b"9" * 400, 3600, AGAIN, True),
        *((hint, 0, AGAIN, False) for hint in (b"timeout=0", b"timeout=00", b"timeout=0, max=9", b"max=0")),
        *((hint, 0, ONCE, False) for hint in (b"timeout=0", b"max=0", b"timeout=60, max=0")),
        *((hint, 0.6, AGAIN, False) for hint in (b"max=9, timeout=1", b'Timeout="1"', b"timeout = 1", b"timeout=1.0")),
        (b"timeout=5\r\nKeep-Alive: timeout=1", 0.6, AGAIN, False),
        *((junk, 0.49, ONCE, True) for junk in (b"", b"timeout", b"timeout=", b"timeout=-1", b"timeout=x", b"\xff")),
        *((junk, 0.99, ONCE, False) for junk in (b"", b"timeout=-1", b"timeout=1e9", b"xtimeout=0", b"max=05")),
        *((junk, 3600, AGAIN, True) for junk in (b"timeout=-1", b"xtimeout=0", b"max=05", b"timeout=1s")),
    ],
)
def test_a_kept_connection_is_used_while_its_server_keeps_it(
    sender: Sender, clock: ManualClock, keep_alive: bytes | None, idle: float, idempotent: bool, is_used: bool
) -> None:
    answer = whole(*([] if keep_alive is None else [b"Keep-Alive: " + keep_alive]))
    with RawDownstream(says_by_turns(answer, answer)) as downstream:
        assert sent(sender, url_of(downstream)).ending == AttemptResult(200, None)
        clock.advance(idle)
        assert sent(sender, url_of(downstream), idempotent=idempotent).ending == AttemptResult(200, None)
        assert downstream.connections == (1 if is_used else 2)


def test_a_connection_ages_from_the_end_of_its_answer(sender: Sender, clock: ManualClock) -> None:
    def slow(connection: socket.socket, over: Event) -> None:
        clock.advance(600)
        says_by_turns(WHOLE, WHOLE)(connection, over)

    with RawDownstream(slow) as downstream:
        for _ in range(2):
            assert sent(sender, url_of(downstream), timeout=3600.0).ending == AttemptResult(200, None)
        assert downstream.connections == 1


def drops(*parts: bytes, is_read: bool, resets: bool) -> Behaviour:
    """Answers one request; when the next one comes says *parts*, and ends the connection."""

    def behave(connection: socket.socket, over: Event) -> None:
        connection.sendall(WHOLE)
        connection.settimeout(5)
        connection.recv(65_536, 0 if is_read else socket.MSG_PEEK)
        connection.sendall(b"".join(parts))
        if resets:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return behave


@pytest.mark.parametrize("resets", [False, True], ids=["closes", "resets"])
@pytest.mark.parametrize("is_read", [False, True], ids=["unread", "read"])
@pytest.mark.parametrize("size", [0, 10, 5_000_000])
def test_a_kept_connection_that_ends_unanswered_is_stale(
    sender: Sender, is_read: bool, resets: bool, size: int
) -> None:
    with RawDownstream(drops(is_read=is_read, resets=resets), says(WHOLE)) as downstream:
        endings = [sent(sender, url_of(downstream), body=b"x" * size).ending for _ in range(3)]
        assert endings == [AttemptResult(200, None), STALE, AttemptResult(200, None)]
        assert downstream.connections == 2


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n", "reset"),
        (b"HTTP/1.1 103 Early\r\n\r\n", "malformed_response"),
        (b"HTTP", "malformed_response"),
        (OK, "incomplete_response"),
        (b"\0\0\0", "malformed_response"),
    ],
)
def test_one_byte_of_a_response_changes_the_reason(sender: Sender, parts: bytes, reason: str) -> None:
    with RawDownstream(drops(parts, is_read=True, resets=False)) as downstream:
        assert sent(sender, url_of(downstream)).ending == AttemptResult(200, None)
        assert sent(sender, url_of(downstream)).ending == AttemptResult(None, reason)


@pytest.mark.parametrize("behaviour", [says(), says_and_resets()], ids=["closes", "resets"])
def test_a_fresh_connection_that_ends_unanswered_is_reset(sender: Sender, behaviour: Behaviour) -> None:
    with RawDownstream(behaviour) as downstream:
        assert sent(sender, url_of(downstream)).ending == AttemptResult(None, "reset")


def test_a_kept_connection_that_stays_silent_is_a_timeout(sender: Sender) -> None:
    with RawDownstream(says_by_turns(WHOLE, b"")) as downstream:
        assert sent(sender, url_of(downstream)).ending == AttemptResult(200, None)
        assert sent(sender, url_of(downstream), timeout=0.2).ending == AttemptResult(None, "timeout")


@pytest.mark.parametrize(
    ("method", "status"),
    [
        *(("POST", status) for status in (b"204 No Content", b"304 Not Modified")),
        *(("HEAD", status) for status in (b"200 OK", b"204 No Content", b"304 Not Modified")),
    ],
)
@pytest.mark.parametrize(
    "fields",
    [
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"Content-Length: 10\r\n",
        b"Content-Length: 3\r\nContent-Length: 4\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: x\r\n",
        b"Content-Length: 10\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: \r\n",
    ],
)
def test_an_answer_without_a_body_ends_with_its_head(sender: Sender, method: str, status: bytes, fields: bytes) -> None:
    head = b"HTTP/1.1 " + status + b"\r\nX-A: b\r\n" + fields + b"\r\n"
    code = int(status[:3])
    with RawDownstream(says_by_turns(head, WHOLE), says(WHOLE)) as downstream:
        exchange = sent(sender, url_of(downstream), method=method)
        assert exchange.ending == AttemptResult(code, "redirect" if code == 304 else None)
        assert exchange.response is not None
        assert (exchange.response.headers["x-a"], exchange.response.body, exchange.response_size) == ("b", b"", 0)
        assert sent(sender, url_of(downstream)).ending == AttemptResult(200, None)
        has_true_length = fields == b"Content-Length: 10\r\n" and code != 204
        assert downstream.connections == (1 if has_true_length else 2)


@pytest.mark.parametrize(("method", "status"), [("HEAD", b"200 OK"), ("HEAD", b"404 No"), ("GET", b"304 Same")])
def test_a_body_that_no_head_announces_is_no_next_answer(sender: Sender, method: str, status: bytes) -> None:
    whole = b"HTTP/1.1 " + status + b"\r\nContent-Length: 10\r\n\r\n0123456789"
    with RawDownstream(says_by_turns(whole, WHOLE), says(WHOLE)) as downstream:
        assert sent(sender, url_of(downstream), method=method).ending.status_code == int(status[:3])
        assert sent(sender, url_of(downstream)).ending == AttemptResult(200, None)
        assert downstream.connections == 2


@pytest.mark.parametrize("method", ["POST", "HEAD"])
@pytest.mark.parametrize("head", [b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 204 A\r\nContent-Length: 0\r\n\r\n"])
def test_a_response_without_a_body_keeps_its_connection(sender: Sender, method: str, head: bytes) -> None:
    with RawDownstream(says_by_turns(head, head)) as downstream:
        for _ in range(2):
            assert sent(sender, url_of(downstream), method=method).ending == AttemptResult(204, None)
        assert downstream.connections == 1


@pytest.mark.parametrize("line", [b"X-A\r\n", b"X-A: 1\rX-B: 2\r\n", b"X A: 1\r\n"])
@pytest.mark.parametrize("method", ["POST", "HEAD"])
def test_an_ambiguous_head_without_a_body_is_malformed(sender: Sender, method: str, line: bytes) -> None:
    with RawDownstream(says(b"HTTP/1.1 204 No Content\r\n", line, b"\r\n")) as downstream:
        assert sent(sender, url_of(downstream), method=method).ending == AttemptResult(None, "malformed_response")


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        OK + b"Content-Length: 0\r\n\r\n",
        WHOLE,
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ],
    ids=["no body", "empty", "sized", "chunked"],
)
@pytest.mark.parametrize(
    "more", [b"x", b"HTTP/1.1 500 Oops\r\n", b"HTTP/1.1 200 Smuggled\r\nContent-Length: 0\r\n\r\n"]
)
def test_a_connection_with_trailing_bytes_is_not_used(
    tmp_path: Path, clock: ManualClock, scheme: str, answer: bytes, more: bytes
) -> None:
    authority = Authority(tmp_path)
    sender = Sender(clock, no_token, tls=authority.client())
    tls, rule = (authority.server("127.0.0.1"), TLS) if scheme == "https" else (None, PLAIN)
    with RawDownstream(says_by_turns(answer + more, WHOLE), tls=tls) as downstream:
        for _ in range(2):
            exchange = sent(sender, f"{scheme}://127.0.0.1:{downstream.port}/", rule)
            assert exchange.ending.reason is None
        assert downstream.connections == 2
    sender.close()


def test_a_connection_over_tls_is_kept(tmp_path: Path, clock: ManualClock) -> None:
    authority = Authority(tmp_path)
    sender = Sender(clock, no_token, tls=authority.client())
    with RawDownstream(says_by_turns(WHOLE, WHOLE), tls=authority.server("127.0.0.1")) as downstream:
        for idempotent in (True, False):
            url = f"https://127.0.0.1:{downstream.port}/"
            assert sent(sender, url, TLS, idempotent=idempotent).ending == AttemptResult(200, None)
        assert downstream.connections == 1
    sender.close()
