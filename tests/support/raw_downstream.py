"""A server on loopback that says what it is told, byte by byte, however wrong."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import ssl

Behaviour = Callable[[socket.socket, Event], None]

OK = b"HTTP/1.1 200 OK\r\n"


def says(*parts: bytes) -> Behaviour:
    """Says all *parts*, then closes."""

    def behave(connection: socket.socket, _: Event) -> None:
        connection.sendall(b"".join(parts))

    return behave


def says_by_turns(*answers: bytes) -> Behaviour:
    """Answers one request after the other on a connection that it keeps."""

    def behave(connection: socket.socket, over: Event) -> None:
        for answer in answers[:-1]:
            connection.sendall(answer)
            _request(connection)
        connection.sendall(answers[-1])
        over.wait(10)

    return behave


def says_and_stays(*parts: bytes) -> Behaviour:
    """Says all *parts*, then nothing more for as long as the test takes."""

    def behave(connection: socket.socket, over: Event) -> None:
        connection.sendall(b"".join(parts))
        over.wait(10)

    return behave


def says_and_resets(*parts: bytes) -> Behaviour:
    def behave(connection: socket.socket, _: Event) -> None:
        connection.sendall(b"".join(parts))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return behave


def trickles(head: bytes, drop: bytes, every: float) -> Behaviour:
    """Says *head*, then a *drop* again and again."""

    def behave(connection: socket.socket, over: Event) -> None:
        connection.sendall(head)
        while not over.wait(every):
            connection.sendall(drop)

    return behave


def hears(behaviour: Behaviour) -> Behaviour:
    """Waits for the first bytes, whatever they are, before it behaves."""

    def behave(connection: socket.socket, over: Event) -> None:
        connection.settimeout(5)
        connection.recv(65_536)
        behaviour(connection, over)

    return behave


def shakes_hands(context: ssl.SSLContext) -> Behaviour:
    """Opens TLS, and closes."""

    def behave(connection: socket.socket, _: Event) -> None:
        context.wrap_socket(connection, server_side=True).close()

    return behave


class RawDownstream:
    """
    Behaves on its first connection as the first of *behaviours* says, and so on, then as the last.

    First it opens TLS if it is given a context, and *reads* a request.
    """

    def __init__(self, *behaviours: Behaviour, reads: bool = True, tls: ssl.SSLContext | None = None) -> None:
        self._behaviours = behaviours
        self._reads = reads
        self._tls = tls
        self._over = Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._threads: list[Thread] = []
        self._open: list[socket.socket] = []
        self.port: int = self._listening.getsockname()[1]
        self.requests: list[bytes] = []
        self.closed = Event()

    @property
    def connections(self) -> int:
        return len(self._threads)

    def __enter__(self) -> Self:
        self._accepting = Thread(target=self._accept, daemon=True)
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._accepting.join()  # accepts no more, so that the connections below are all there are
        for connection in tuple(self._open):
            with suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)  # it may wait for a request
        for thread in self._threads:
            thread.join(5)
        self._listening.close()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self._open.append(connection)
            behave = self._behaviours[min(self.connections, len(self._behaviours) - 1)]
            thread = Thread(target=self._serve, args=(connection, behave), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, behave: Behaviour) -> None:
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
                self._open.append(connection)
            if self._reads:
                self.requests.append(_request(connection))
            behave(connection, self._over)
        except OSError:
            pass  # the other side has had enough
        finally:
            connection.close()
            self.closed.set()


def _request(connection: socket.socket) -> bytes:
    connection.settimeout(5)
    came = b""
    while b"\r\n\r\n" not in came:
        came += _more(connection)
    head, _, _ = came.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    while len(came) < len(head) + 4 + int(length[1] if length else 0):
        came += _more(connection)
    return came


def _more(connection: socket.socket) -> bytes:
    came = connection.recv(65_536)
    if not came:
        raise ConnectionError("the other side has closed")
    return came
