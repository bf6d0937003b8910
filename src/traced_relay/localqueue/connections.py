"""Connections to workers, kept for a moment between two dispatches."""

from __future__ import annotations

import select
import socket
import ssl
from collections import deque
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from traced_relay.clock import Clock
    from traced_relay.localqueue.targets import Origin

CONNECT_SECONDS = 30.0
# Servers drop idle connections after two seconds and more; one dropped while it is being used again
# would look like an attempt that failed, so connections are not kept for nearly that long.
KEPT_SECONDS = 1.0


class Connections:
    """Idle connections by origin; the freshest is used first, the stalest dropped first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = Lock()
        self._idle: dict[Origin, deque[tuple[float, socket.socket]]] = {}

    def get(self, origin: Origin, seconds: float) -> socket.socket:
        """A connection to *origin*, made within so many *seconds* if none is idle."""
        kept = self._take(origin)
        return kept if kept is not None else _connect(origin, min(seconds, CONNECT_SECONDS))

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


def _has_ended(connection: socket.socket) -> bool:
    # Nothing is due on an idle connection: what can be read is its end, or no HTTP.
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _connect(origin: Origin, seconds: float) -> socket.socket:
    connection = socket.create_connection((origin.host, origin.port), timeout=seconds)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if origin.is_tls:
            connection = _tls().wrap_socket(connection, server_hostname=origin.host)
        connection.settimeout(None)
    except OSError:
        connection.close()
        raise
    return connection


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
