"""
A minimal handler and downstream: responds at once and records the time of each request.

One thread, keep-alive, no HTTP beyond what the others send. `GET /arrivals?least=N`
responds after N arrivals, and resets the list.
"""

from __future__ import annotations

import http.client
import json
import re
import select
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

from bench.processes import Server, free_port, module

if TYPE_CHECKING:
    from pathlib import Path

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_NAME = re.compile(rb"\r\n(?:x-cloudtasks-taskname|idempotency-key): *([^\r]*)", re.IGNORECASE)
_ASKED = re.compile(rb"GET /arrivals\?least=(\d+) ")
_OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"


class Sink(Server):
    """The process that runs this file."""

    def __init__(self, directory: Path) -> None:
        port = free_port()
        super().__init__(module("bench.sink", str(port)), port=port, directory=directory)
        self.url = f"http://127.0.0.1:{port}"
        self._asking = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, least: int) -> None:
        """Have `arrivals` told as soon as there are so many; whoever asks early is not in the way later."""
        self._asking.request("GET", f"/arrivals?least={least}")

    def arrivals(self) -> list[tuple[str, float]]:
        """Task and moment (of this machine's monotonic clock) of all that came since the last time."""
        with self._asking.getresponse() as answer:
            return [(name, nanoseconds / 1e9) for name, nanoseconds in json.load(answer)]

    def forget(self) -> None:
        """Leave out what has come up to now."""
        self.ask(0)
        self.arrivals()

    def moments(self) -> list[float]:
        return sorted(moment for _, moment in self.arrivals())


class _Serving:
    def __init__(self, port: int) -> None:
        self._listening = socket.create_server(("127.0.0.1", port), backlog=1024)
        self._poll = select.epoll()
        self._poll.register(self._listening, select.EPOLLIN)
        self._open: dict[int, tuple[socket.socket, bytes]] = {}
        self._arrived: list[tuple[bytes, int]] = []
        self._asking: tuple[int, socket.socket] | None = None

    def serve(self) -> None:
        while True:
            for number, _ in self._poll.poll():
                if number == self._listening.fileno():
                    self._accept()
                else:
                    self._read(number)

    def _accept(self) -> None:
        connection, _ = self._listening.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open[connection.fileno()] = connection, b""
        self._poll.register(connection, select.EPOLLIN)

    def _read(self, number: int) -> None:
        connection, before = self._open[number]
        try:
            got = connection.recv(65536)
        except ConnectionError:
            got = b""
        if not got:
            self._poll.unregister(connection)
            connection.close()
            del self._open[number]
            return
        self._open[number] = connection, self._answered(connection, before + got)

    def _answered(self, connection: socket.socket, buffer: bytes) -> bytes:
        """What is left of the *buffer* after the request in it, if that is whole, was answered."""
        head, end, body = buffer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        size = int(length[1]) if length else 0
        if not end or len(body) < size:
            return buffer
        if asked := _ASKED.match(head):
            self._asking = int(asked[1]), connection
        else:
            self._arrived.append((head, time.monotonic_ns()))
            connection.sendall(_OK)
        self._tell()
        return body[size:]

    def _tell(self) -> None:
        if self._asking is None or len(self._arrived) < self._asking[0]:
            return
        connection = self._asking[1]
        content = json.dumps([(_name(head), came) for head, came in self._arrived]).encode()
        self._arrived, self._asking = [], None
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content))


def _name(head: bytes) -> Any:
    found = _NAME.search(head)
    return found[1].decode().rpartition("/")[2] if found else ""


if __name__ == "__main__":
    _Serving(int(sys.argv[1])).serve()
