"""What a request must look like, for `dev` as for `serve`, byte by byte on a real socket."""

from __future__ import annotations

import re
import socket
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import pytest

from support.asking import get
from traced_relay.dev.environment import Dev
from traced_relay.server.embedded import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BODY = b'{"url": "http://127.0.0.1:9/"}'
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"1e\r\n" + BODY + b"\r\n0\r\n\r\n"
LENGTH = b"Content-Length: 30\r\n"
HOST = b"Host: localhost\r\n"
BEHIND = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def dev() -> Iterator[Dev]:
    with Dev() as running:
        yield running


def statuses(port: int, sent: bytes) -> list[int]:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(sent)
        heard = b""
        while got := connection.recv(65_536):
            heard += got
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] ([0-9]{3}) ", heard)]


def posted(head: bytes, body: bytes = BODY, target: bytes = b"/v1/tasks", version: bytes = b"HTTP/1.1") -> bytes:
    return b"POST %b %b\r\n%bContent-Type: application/json\r\n\r\n%b" % (target, version, head, body) + BEHIND


@pytest.mark.parametrize(
    "request_bytes",
    [
        posted(HOST + LENGTH),
        posted(HOST + CHUNKED, CHUNKS),
        posted(b"Host: [::1]:80\r\n" + LENGTH),
        posted(b"Host: elsewhere.example\r\n" + LENGTH, target=b"http://localhost/v1/tasks"),
    ],
    ids=["length", "chunks", "address", "absolute"],
)
def test_a_valid_request_is_accepted(dev: Dev, request_bytes: bytes) -> None:
    assert statuses(dev.port, request_bytes) == [202, 200]


def test_http_1_0_without_host_is_accepted(dev: Dev) -> None:
    assert statuses(dev.port, posted(LENGTH, version=b"HTTP/1.0")) == [202]


def test_the_host_of_an_absolute_target_is_checked(dev: Dev) -> None:
    assert statuses(dev.port, posted(HOST + LENGTH, target=b"http://elsewhere.example/v1/tasks")) == [403, 200]


BROKEN = {
    "two lengths": posted(HOST + LENGTH + b"Content-Length: 31\r\n"),
    "the same length twice": posted(HOST + LENGTH + LENGTH),
    "a list of lengths": posted(HOST + b"Content-Length: 30, 30\r\n"),
    "a negative length": posted(HOST + b"Content-Length: -5\r\n"),
    "a signed length": posted(HOST + b"Content-Length: +30\r\n"),
    "a length with an underscore": posted(HOST + b"Content-Length: 3_0\r\n"),
    "a length and chunks": posted(HOST + LENGTH + CHUNKED, CHUNKS),
    "chunks twice": posted(HOST + CHUNKED + CHUNKED, CHUNKS),
    "chunks before HTTP/1.1": posted(HOST + CHUNKED, CHUNKS, version=b"HTTP/1.0"),
    "a hexadecimal prefix": posted(HOST + CHUNKED, CHUNKS.replace(b"1e", b"0x1e")),
    "a negative chunk": posted(HOST + CHUNKED, b"-1\r\n\r\n"),
    "a chunk without its end": posted(HOST + CHUNKED, CHUNKS.replace(b"\r\n0", b"XX0")),
    "bare line feeds": posted(HOST + LENGTH).replace(b"\r\n", b"\n") + b"\r\n\r\n",
    "one bare line feed": posted(HOST + b"X: y\n" + LENGTH),
    "a bare carriage return": posted(HOST + b"X: a\rContent-Length: 5\r\n" + LENGTH),
    "a NUL": posted(HOST + b"X: a\0b\r\n" + LENGTH),
    "a folded line": posted(HOST + b"X: y\r\n z\r\n" + LENGTH),
    "a space before the colon": posted(HOST + b"Content-Length : 30\r\n"),
    "a line without a colon": posted(HOST + b"nonsense\r\n" + LENGTH),
    "no host": posted(LENGTH),
    "two hosts": posted(HOST + HOST + LENGTH),
    "an empty host": posted(b"Host:\r\n" + LENGTH),
    "a host with a user": posted(b"Host: u@localhost\r\n" + LENGTH),
    "no host beside an absolute target": posted(LENGTH, target=b"http://localhost/v1/tasks"),
    "a target with a user": posted(HOST + LENGTH, target=b"http://u@localhost/v1/tasks"),
    "a target of another scheme": posted(HOST + LENGTH, target=b"ftp://localhost/v1/tasks"),
    "a relative target": posted(HOST + LENGTH, target=b"v1/tasks"),
    "a later version": posted(HOST + LENGTH, version=b"HTTP/2.0"),
    "no version": posted(HOST + LENGTH, version=b"").replace(b"tasks \r\n", b"tasks\r\n"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_dev_refuses_what_serve_refuses_and_stops_reading(dev: Dev, name: str) -> None:
    assert statuses(dev.port, BROKEN[name]) == [400]


def test_stop_closes_idle_connections_and_frees_the_port() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", "2")])
        return [b"{}"]

    server = EmbeddedServer(threads=2)
    server.start(app)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as idle:
        idle.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        heard = idle.recv(1000)
        while not heard.endswith(b"{}"):
            heard += idle.recv(1000)
        stopped = Event()
        Thread(target=lambda: (server.stop(), stopped.set()), daemon=True).start()
        assert stopped.wait(10)
        assert idle.recv(1000) == b""
    again = EmbeddedServer(threads=2, port=server.port)
    again.start(app)
    assert get(f"{again.url}/").document == {}
    again.stop()
