import socket
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traced_relay.emulator.http_client import BrokenExchange, Reply, _read_any, _read_plain, exchange

REQUEST = b"POST / HTTP/1.1\r\nHost: worker\r\nContent-Length: 0\r\n\r\n"
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def answered(pair: tuple[socket.socket, socket.socket], answer: bytes, *, closes: bool, method: str = "POST") -> Reply:
    ours, theirs = pair
    theirs.sendall(answer)
    if closes:
        theirs.shutdown(socket.SHUT_WR)
    return exchange(ours, REQUEST, method)


@pytest.mark.parametrize(
    ("answer", "method", "reply"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "POST", Reply(200, None, True)),
        (b"HTTP/1.1 200\r\ncontent-length:0\r\n\r\n", "POST", Reply(200, None, True)),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "POST", Reply(204, None, True)),
        (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "POST", Reply(200, None, True)),
        (b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n", "POST", Reply(200, None, True)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", "POST", Reply(200, None, True)),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", "POST", Reply(304, None, True)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "HEAD", Reply(200, None, True)),
        (b"HTTP/1.1 503 No\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", "POST", Reply(503, "7", True)),
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n", "POST", Reply(200, None, False)),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", "POST", Reply(200, None, False)),
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + EMPTY,
            "POST",
            Reply(200, None, True),
        ),
        (
            CHUNKED + b"2;x=y\r\nok\r\nA\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n",
            "POST",
            Reply(200, None, True),
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nunasked for", "POST", Reply(200, None, False)),
    ],
)
def test_a_response_is_read_exactly_to_its_end(
    pair: tuple[socket.socket, socket.socket], answer: bytes, method: str, reply: Reply
) -> None:
    assert answered(pair, answer, closes=False, method=method) == reply
    assert pair[1].recv(65536) == REQUEST


def test_a_body_without_a_length_ends_with_the_connection(pair: tuple[socket.socket, socket.socket]) -> None:
    answer = b"HTTP/1.1 200 OK\r\n\r\nall of it" + b"x" * 100_000

    assert answered(pair, answer, closes=True) == Reply(200, None, False)


def test_a_large_body_is_read_and_dropped(pair: tuple[socket.socket, socket.socket]) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000

    assert answered(pair, answer, closes=False) == Reply(200, None, True)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\noh",
        CHUNKED + b"5\r\noh",
        CHUNKED + b"xyz\r\noh\r\n",
        CHUNKED + b"-2\r\noh\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        CHUNKED + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 099 Odd\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000,
    ],
)
def test_incomplete_or_invalid_http_is_no_response(pair: tuple[socket.socket, socket.socket], answer: bytes) -> None:
    pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    pair[1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    with pytest.raises(BrokenExchange):
        answered(pair, answer, closes=True)


LINES = (
    *("Content-Length: 2", "content-length:\t2 ", "Content-Length: 0", "Content-Length: +2", "Content-Length: 2, 2"),
    *("Connection: keep-alive", "Connection: Close", "Connection: x, close", "Transfer-Encoding: chunked"),
    *("Retry-After: 7", "retry-after: 9", "Retry-After:", "Server: x\x7f", "X: \0", "X: \xe9", "no colon", "X : y"),
    *("X: a\r\n folded", "X: a\rb", "X: a\nContent-Length: 2", ": y", "X:", "x-content-length: 9"),
)
STATUS_LINES = (
    *(
        "HTTP/1.1 200 OK",
        "HTTP/1.1 200",
        "HTTP/1.1 204 No",
        "HTTP/1.1 304 Same",
        "HTTP/1.1 503 Not\tnow",
        "HTTP/1.1 999 ",
    ),
    *(
        "HTTP/1.0 200 OK",
        "HTTP/1.1 099 Odd",
        "HTTP/1.1 100 Continue",
        "HTTP/1.1 200OK",
        "HTTP/1.1  200 OK",
        "http/1.1 200 OK",
    ),
)


@given(
    status=st.sampled_from(STATUS_LINES),
    lines=st.lists(st.sampled_from(LINES), max_size=4),
    body=st.sampled_from(["", "ok", "ok!", "2\r\nok\r\n0\r\n\r\n"]),
    method=st.sampled_from(["POST", "HEAD"]),
)
def test_plain_responses_are_read_as_h11_reads_them(status: str, lines: list[str], body: str, method: str) -> None:
    start = "".join(f"{line}\r\n" for line in (status, *lines, "")).encode("latin-1") + body.encode()

    def outcome_of(read: Callable[[socket.socket, bytes, str], Reply | None]) -> Reply | str | None:
        ours, theirs = socket.socketpair()
        with ours:
            theirs.close()
            try:
                return read(ours, start, method)
            except BrokenExchange:
                return "broken"

    plain = outcome_of(_read_plain)
    assert plain in (None, outcome_of(_read_any))
