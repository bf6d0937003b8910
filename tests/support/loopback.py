"""Listeners on all of loopback, for what must not be connected to."""

from __future__ import annotations

import socket
from contextlib import suppress
from threading import Thread
from typing import Self

from support.raw_downstream import OK

EMPTY = b"Content-Length: 0\r\n\r\n"


class Loopback:
    """Listens on one port of every loopback address that the corpus means, and counts who comes."""

    ADDRESSES = ("127.0.0.1", "127.0.255.255", "127.255.255.254", "::1")

    def __init__(self) -> None:
        self.came = 0
        self._listening = [socket.create_server((self.ADDRESSES[0], 0))]
        self.port: int = self._listening[0].getsockname()[1]
        for address in self.ADDRESSES[1:]:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            self._listening.append(socket.create_server((address, self.port), family=family))
        self._threads = [Thread(target=self._accept, args=(one,), daemon=True) for one in self._listening]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for one, thread in zip(self._listening, self._threads, strict=True):
            one.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            one.close()

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                self.came += 1
                with connection, suppress(OSError):
                    connection.settimeout(2)
                    connection.recv(65_536)
                    connection.sendall(OK + b"Connection: close\r\n" + EMPTY)

    def meant(self, text: str | list[str]) -> list[str]:
        return [url.replace("PORT", str(self.port)) for url in (text.split() if isinstance(text, str) else text)]
