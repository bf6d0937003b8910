"""The server of `serve` and `dev` under limits of its process."""

from __future__ import annotations

import threading
from pathlib import Path
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
        opened.append(len(list(Path("/proc/self/fd").iterdir())))
    assert opened[3] <= opened[0]
