import socket
from collections.abc import Iterator

import pytest

from traced_relay.emulator.http_client import BrokenExchange, Reply, exchange

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
