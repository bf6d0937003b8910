"""The way out: connections that say how long they took to open."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError

if TYPE_CHECKING:
    import socket


@dataclass
class Opening:
    """How the connection of one exchange was opened, in seconds; None where a kept one was used, or TLS is not."""

    connect: float | None = None
    tls: float | None = None


opening: ContextVar[Opening] = ContextVar("opening")


class _Http(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _timed_connect(super()._new_conn)


class _Https(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _timed_connect(super()._new_conn)

    def connect(self) -> None:
        started = time.perf_counter()
        try:
            super().connect()
        except TimeoutError as exc:  # of the handshake; it would pass for a slow answer
            raise ConnectTimeoutError(self, f"no TLS with {self.host} in time") from exc
        this = opening.get()
        this.tls = time.perf_counter() - started - (this.connect or 0.0)


def _timed_connect(connect: Any) -> socket.socket:
    started = time.perf_counter()
    connected: socket.socket = connect()
    opening.get().connect = time.perf_counter() - started
    return connected


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https


class Adapter(HTTPAdapter):
    """requests' adapter over connections of ours; it never tries again by itself."""

    def __init__(self, connections: int) -> None:
        super().__init__(pool_connections=32, pool_maxsize=connections, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
