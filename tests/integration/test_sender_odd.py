from __future__ import annotations

import gzip
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.raw_downstream import OK, RawDownstream, says
from support.sending import no_token, sent, sent_to
from traced_relay.downstream.sender import Sender
from traced_relay.runtime.clock import ManualClock, SystemClock
from traced_relay.tasks.reasons import blame

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from threading import Event

    from support.raw_downstream import Behaviour

MIB = 1024 * 1024


@pytest.fixture
def sender() -> Iterator[Sender]:
    made = Sender(SystemClock(), no_token)
    yield made
    made.close()


def pours(head: bytes, drop: bytes, size: int) -> Behaviour:
    """Says *head*, and so many bytes as fast as they are taken."""

    def behave(connection: socket.socket, _: Event) -> None:
        connection.sendall(head)
        for _ in range(size // len(drop)):
            connection.sendall(drop)

    return behave


def most_memory() -> int:
    """The most that this process has held since it was forgotten."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def forget_most_memory() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return most_memory()


CHUNK = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
BOMB = gzip.compress(bytes(100 * MIB), mtime=0)


@pytest.mark.whole
@pytest.mark.parametrize(
    ("behaviour", "size"),
    [
        (pours(OK + b"\r\n", b"x" * 65_536, 300 * MIB), 300 * MIB),
        (pours(OK + b"Transfer-Encoding: chunked\r\n\r\n", CHUNK, 300 * len(CHUNK)), None),
        (pours(OK + b"Transfer-Encoding: chunked\r\n\r\n12c00000\r\n", b"x" * MIB, 300 * MIB), None),
        (says(OK, b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB), BOMB), len(BOMB)),
    ],
    ids=["a long body", "many chunks", "one chunk", "a gzip bomb"],
)
def test_a_long_body_takes_no_more_memory(sender: Sender, behaviour: Behaviour, size: int | None) -> None:
    before = forget_most_memory()
    exchange = sent_to(sender, behaviour, timeout=30.0)
    assert most_memory() - before < 10 * MIB
    if size is not None:
        assert (exchange.ending.status_code, exchange.response_size) == (200, size)


LINES = st.sampled_from(
    [
        *(b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 100 Continue", b"HTTP/1.1 503 Busy", b"HTTP/9.9 200"),
        *(b"HTTP/1.1 -1 A", b"HTTP/1.1 200", b"HTTP/1.1", b"", b"\x00", b"Content-Length: 3", b"Content-Length: 99"),
        *(b"Content-Length: 1_0", b"Content-Length: 1e3", b"Transfer-Encoding: chunked", b"Transfer-Encoding: x"),
        *(b"Content-Encoding: gzip", b"Content-Type: a; charset=\xff", b"Set-Cookie: a=b; expires=x; path", b": x"),
        *(
            b"Set-Cookie: =; domain==; version=x",
            b"Location: //[",
            b"Retry-After: \xb2",
            b"Retry-After: 1e9",
            b" folded",
        ),
        *(b"Connection: upgrade", b"Link: <>;", b"Date: 99", b"3", b"abc", b"0", b"-1", b"ffffffffffffffffffff"),
    ]
)


@given(st.lists(LINES | st.binary(max_size=20), max_size=12))
def test_no_bytes_of_a_downstream_raise(lines: list[bytes]) -> None:
    sender = Sender(ManualClock(), no_token)
    ending = sent_to(sender, says(b"\r\n".join([OK.strip(), *lines] if len(lines) % 2 else lines)), timeout=2.0).ending
    sender.close()
    assert ending.reason is None or blame(ending.reason)
    assert (ending.reason is None) == (ending.status_code in range(200, 300))


@pytest.mark.parametrize(
    "value", ["-1", "", "1.5", "soon", "1e3", "٣", "Mon, 32 Jan 2026 00:00:00 GMT", "+5", "5.0", "5, 5"]
)
def test_a_retry_after_that_cannot_be_read_is_ignored(sender: Sender, value: str) -> None:
    head = f"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nRetry-After: {value}\r\n\r\n".encode()
    assert sent_to(sender, says(head)).ending.retry_after is None


@pytest.mark.parametrize("line", [b"5", b"Mon, 01 Jan 2035 00:00:00 GMT"])
def test_two_retry_after_lines_are_ignored(sender: Sender, line: bytes) -> None:
    head = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n" + (b"Retry-After: " + line + b"\r\n") * 2 + b"\r\n"
    assert sent_to(sender, says(head)).ending.retry_after is None


@pytest.mark.parametrize(("ahead", "seconds"), [(90, 90.0), (-90, None), (10**10, 10.0**10)])
def test_a_retry_after_may_be_a_date(ahead: int, seconds: float | None) -> None:
    clock = ManualClock()
    sender = Sender(clock, no_token)
    head = (
        f"HTTP/1.1 429 Busy\r\nContent-Length: 0\r\nRetry-After: {formatdate(clock.now() + ahead, usegmt=True)}\r\n\r\n"
    )
    assert sent_to(sender, says(head.encode())).ending.retry_after == seconds
    sender.close()


def test_a_response_before_the_complete_request_counts(sender: Sender) -> None:
    with RawDownstream(says(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"), reads=False) as downstream:
        ending = sent(sender, f"http://127.0.0.1:{downstream.port}/", body=b"x" * 100_000).ending
    assert ending.reason in ("http_413", "reset")
