"""One address in front of several servers, as a platform's front end is: round robin over those that answer."""

from __future__ import annotations

import socket
from contextlib import suppress
from itertools import count
from threading import Thread
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK = 65_536


class Spreader:
    """Hands each connection to the next of *ports* that takes it."""

    def __init__(self, ports: Callable[[], list[int]]) -> None:
        self._ports = ports
        self._turn = count()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                Thread(target=self._carry, args=(connection,), daemon=True).start()

    def _carry(self, front: socket.socket) -> None:
        back = self._next()
        if back is None:
            front.close()
            return
        other_way = Thread(target=_pour, args=(back, front), daemon=True)
        other_way.start()
        _pour(front, back)
        other_way.join()
        front.close()
        back.close()

    def _next(self) -> socket.socket | None:
        ports = self._ports()
        first = next(self._turn)
        for step in range(len(ports)):
            with suppress(OSError):
                return socket.create_connection(("127.0.0.1", ports[(first + step) % len(ports)]))
        return None


def _pour(source: socket.socket, sink: socket.socket) -> None:
    """Until one side ends; then both have ended, as when a process dies."""
    with suppress(OSError):
        while chunk := source.recv(_CHUNK):
            sink.sendall(chunk)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
