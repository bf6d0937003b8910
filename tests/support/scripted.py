"""A worker on a bare socket: it answers with the very bytes a test gives it, or does not."""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from threading import Condition, Event, Thread
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def status(code: int, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {code} Whatever", "Content-Length: 0", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class ScriptedWorker:
    """Plays *answers* in order, one a request, then 200: bytes are sent, callables get the connection."""

    def __init__(self, *answers: bytes | Callable[[socket.socket], None]) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.is_over = Event()
        self._answers = list(answers)
        self._changed = Condition()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._open: set[socket.socket] = set()
        self._threads = [Thread(target=self._accept, daemon=True)]
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def wait_for(self, count: int, seconds: float = 10) -> list[bytes]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests) >= count, seconds), (
                f"{len(self.requests)} of {count} requests"
            )
            return list(self.requests)

    def wait_for_connections(self, count: int, seconds: float = 10) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.connections >= count, seconds)

    def headers(self, number: int) -> dict[str, str]:
        """Of that request, in lower case."""
        head = self.requests[number].partition(b"\r\n\r\n")[0].decode()
        pairs = (line.split(": ", 1) for line in head.split("\r\n")[1:])
        return {name.lower(): value for name, value in pairs}

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._threads[0].join()  # accepts no more, so that the connections below are all there are
        with self._changed:
            opened = tuple(self._open)
        for connection in opened:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with self._changed:
                self.connections += 1
                self._open.add(connection)
                self._changed.notify_all()
            thread = Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while request := _read(connection):
                with self._changed:
                    self.requests.append(request)
                    answer = self._answers.pop(0) if self._answers else OK
                    self._changed.notify_all()
                if isinstance(answer, bytes):
                    connection.sendall(answer)
                else:
                    answer(connection)
        with self._changed:
            self._open.discard(connection)


def _read(connection: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        part = connection.recv(65536)
        if not part:
            return b""
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    wanted = int(found[1]) if found else 0
    while len(body) < wanted:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body
