"""Connections to workers, kept for a moment between two dispatches."""

from __future__ import annotations

import select
import socket
import ssl
from collections import deque
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import h11

if TYPE_CHECKING:
    from collections.abc import Callable

    from traced_relay.emulator.http_request import Origin
    from traced_relay.runtime.clock import Clock

CONNECT_SECONDS = 30.0
# Servers drop idle connections after two seconds and more; one dropped while it is being used again
# would look like an attempt that failed, so connections are not kept for nearly that long.
KEPT_SECONDS = 1.0


@cache
def _trusting_the_system() -> ssl.SSLContext:
    return ssl.create_default_context()


class Connections:
    """Idle connections by origin; the freshest is used first, the stalest dropped first."""

    def __init__(self, clock: Clock, *, tls: Callable[[], ssl.SSLContext] = _trusting_the_system) -> None:
        self._clock = clock
        self._tls = tls
        self._lock = Lock()
        self._idle: dict[Origin, deque[tuple[float, socket.socket]]] = {}

    def get(self, origin: Origin, seconds: float, hold: Callable[[socket.socket], None]) -> socket.socket:
        """
        A connection to *origin*, made within so many *seconds* if none is idle.

        It is handed to *hold* as soon as there is something to cut, before any TLS handshake.
        """
        connection = self._take(origin)
        if connection is not None:
            hold(connection)
            return connection
        return self._connect(origin, min(seconds, CONNECT_SECONDS), hold)

    def put(self, origin: Origin, connection: socket.socket) -> None:
        now = self._clock.monotonic()
        with self._lock:
            idle = self._idle.setdefault(origin, deque())
            idle.append((now, connection))
            stale = []
            while now - idle[0][0] >= KEPT_SECONDS:
                stale.append(idle.popleft()[1])
        for connection in stale:
            connection.close()

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, {}
        for connections in idle.values():
            for _, connection in connections:
                connection.close()

    def _take(self, origin: Origin) -> socket.socket | None:
        while True:
            with self._lock:
                idle = self._idle.get(origin)
                if not idle:
                    return None
                since, connection = idle.pop()
            if self._clock.monotonic() - since < KEPT_SECONDS and not _has_ended(connection):
                return connection
            connection.close()

    def _connect(self, origin: Origin, seconds: float, hold: Callable[[socket.socket], None]) -> socket.socket:
        connection = socket.create_connection((origin.host, origin.port), timeout=seconds)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if origin.is_tls:
                connection = self._tls().wrap_socket(
                    connection, server_hostname=origin.host, do_handshake_on_connect=False
                )
            hold(connection)
            if isinstance(connection, ssl.SSLSocket):
                connection.do_handshake()
            connection.settimeout(None)
        except BaseException:
            connection.close()
            raise
        return connection


def _has_ended(connection: socket.socket) -> bool:
    # Nothing is due on an idle connection: what can be read is its end, or no HTTP.
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


_CHUNK = 65536


class BrokenExchange(Exception):
    """The connection ended, or what came was not HTTP; nobody can say what the worker did."""


class Reply(NamedTuple):
    """What a dispatch is judged by; the body was read and dropped."""

    status: int
    retry_after: str | None
    is_reusable: bool


def exchange(connection: socket.socket, request: bytes, method: str) -> Reply:
    """Send *request*, read the whole answer."""
    connection.sendall(request)
    http = h11.Connection(h11.CLIENT)
    # The request has its own bytes; h11 only has to know what kind of answer it gets.
    http.send(h11.Request(method=method, target="/", headers=[("Host", "worker")]))
    http.send(h11.EndOfMessage())
    reply = Reply(0, None, False)
    try:
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(connection.recv(_CHUNK))
            elif isinstance(event, h11.Response):
                asked = dict(event.headers).get(b"retry-after")
                reply = Reply(event.status_code, None if asked is None else asked.decode("latin-1"), False)
            elif isinstance(event, h11.EndOfMessage):
                is_open = http.their_state is h11.DONE and http.trailing_data == (b"", False)
                return reply._replace(is_reusable=is_open)
    except h11.RemoteProtocolError as exc:
        raise BrokenExchange("not HTTP") from exc
