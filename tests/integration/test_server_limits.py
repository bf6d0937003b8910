"""The server of `serve` and `dev` under limits of its process."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import requests

from support.no_threads import no_new_threads
from traced_relay.server.embedded import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def app(_: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_requests_are_answered_while_no_thread_can_start() -> None:
    server = EmbeddedServer(threads=16)
    server.start(app)
    try:
        requests.get(server.url, timeout=10)  # its first thread waits
        with no_new_threads():
            got = [requests.get(server.url, timeout=10).text for _ in range(3)]
        got += [requests.get(server.url, timeout=10).text for _ in range(3)]
    finally:
        server.stop()
    assert got == ["ok"] * 6


def test_a_stopped_server_leaves_no_descriptor_open() -> None:
    opened = []
    for _ in range(4):
        server = EmbeddedServer(threads=4)
        server.start(app)
        requests.get(server.url, timeout=10)
        server.stop()
        for thread in threading.enumerate():
            if thread.name.startswith("request_"):
                thread.join(10)
        opened.append(descriptors())
    assert opened[3] <= opened[0]


def test_a_request_that_outlives_its_server_leaves_no_connection_open() -> None:
    before, begun, may_end = descriptors(), Event(), Event()

    def slow(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        begun.set()
        may_end.wait(10)
        return app(environ, start_response)

    server = EmbeddedServer(threads=4)
    server.start(slow)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        begun.wait(10)
        server.stop()
        may_end.set()
        received = b""
        while chunk := client.recv(4096):  # ends with the connection, which nothing else closes
            received += chunk
    assert received.endswith(b"ok")
    for thread in threading.enumerate():
        if thread.name.startswith("request_"):
            thread.join(10)
    assert descriptors() <= before


def test_clients_that_never_read_leave_threads_to_others() -> None:
    def large(_: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "8000000")])
        return [bytes(8_000_000)]

    server = EmbeddedServer(threads=16)
    server.start(lambda environ, start: (large if environ["PATH_INFO"] == "/large" else app)(environ, start))
    clients = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(20)]
    try:
        for client in clients:
            client.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
        assert [requests.get(server.url, timeout=10).text for _ in range(5)] == ["ok"] * 5
    finally:
        for client in clients:
            client.close()
        server.stop()
