"""
The way out: connections that check every address before they connect to it.

They say how long opening took, and can be cut from another thread.
"""

from __future__ import annotations

import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import certifi
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from traced_relay.addresses import Reach, reach_of
from traced_relay.errors import DownstreamDenied

if TYPE_CHECKING:
    from traced_relay.watch import Guard

OPENING_TIMEOUT = 30.0
_RESOLVERS = 64

# A flow that says nothing for ten minutes is forgotten by Google's NAT and firewalls.
_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 5),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 360_000),
)

_resolvers = ThreadPoolExecutor(_RESOLVERS, "resolver")


@dataclass
class Opening:
    """
    How the connection of one exchange is opened.

    *until* is when name, connection and TLS must be there, by `time.monotonic`.
    *connect* and *tls* are the seconds they took, None where a kept connection
    was used, or TLS is not.
    """

    guard: Guard
    allow_private: bool
    until: float
    connect: float | None = None
    tls: float | None = None

    def left(self) -> float:
        return max(0.001, self.until - time.monotonic())


opening: ContextVar[Opening] = ContextVar("opening")


class _Http(HTTPConnection):
    guard: Guard | None = None

    def _new_conn(self) -> socket.socket:
        return _open(self)

    def send(self, data: Any) -> None:
        _hold_for_sending(self)
        super().send(data)


class _Https(HTTPSConnection):
    guard: Guard | None = None

    def _new_conn(self) -> socket.socket:
        return _open(self)

    def connect(self) -> None:
        started = time.monotonic()
        try:
            super().connect()
        except TimeoutError as exc:  # of the handshake; it would pass for a slow answer
            raise ConnectTimeoutError(self, f"no TLS with {self.host} in time") from exc
        this = opening.get()
        this.tls = time.monotonic() - started - (this.connect or 0.0)

    def send(self, data: Any) -> None:
        _hold_for_sending(self)
        super().send(data)


def _hold_for_sending(connection: _Http | _Https) -> None:
    if connection.sock is None:
        connection.connect()
    guard = opening.get().guard
    if connection.guard is not None and connection.guard is not guard:
        connection.guard.release()  # late as it is, it may no longer cut what it once held
    connection.guard = guard
    guard.hold(connection.sock)
    guard.start_sending()


def _open(connection: HTTPConnection) -> socket.socket:
    """Connect to the first address of the host that may be called and answers; no other is ever tried."""
    this, started = opening.get(), time.monotonic()
    failure: Exception | None = None
    for family, kind, protocol, address in _resolved(connection, this):
        reach = reach_of(str(address[0]))
        if not (reach is Reach.PUBLIC or (reach is Reach.PRIVATE and this.allow_private)):
            failure = failure or DownstreamDenied("the host has an address that may not be called")
            continue
        try:
            opened = _connected(this, socket.socket(family, kind, protocol), address)
        except OSError as exc:
            failure = NewConnectionError(connection, type(exc).__name__)
            continue
        this.connect = time.monotonic() - started
        return opened
    raise failure or NewConnectionError(connection, "the host has no address")


def _resolved(connection: HTTPConnection, this: Opening) -> list[tuple[int, int, int, Any]]:
    """The addresses of the host, asked for once: what is checked is what is connected to."""
    # getaddrinfo knows no timeout; a thread that it holds up is one of a few that serve for nothing else.
    asked = _resolvers.submit(socket.getaddrinfo, connection._dns_host, connection.port, type=socket.SOCK_STREAM)
    try:
        found = asked.result(this.left())
    except (OSError, UnicodeError, TimeoutError) as exc:
        asked.cancel()
        raise NameResolutionError(connection.host, connection, socket.gaierror(str(exc))) from exc
    return [(family, kind, protocol, address) for family, kind, protocol, _, address in found]


def _connected(this: Opening, opened: socket.socket, address: Any) -> socket.socket:
    try:
        for option in _OPTIONS:
            opened.setsockopt(*option)
        opened.settimeout(this.left())
        opened.connect(address)
        opened.settimeout(this.left())
        this.guard.hold(opened)
    except BaseException:
        opened.close()
        raise
    return opened


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https


class Adapter(HTTPAdapter):
    """requests' adapter over connections of ours; it never tries again by itself, and shares one TLS context."""

    def __init__(self, connections: int, tls: ssl.SSLContext | None = None) -> None:
        # With a context for each connection a thousand calls take 800 MB.
        self._tls = tls or ssl.create_default_context(cafile=certifi.where())
        super().__init__(pool_connections=32, pool_maxsize=connections, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._tls, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Nothing: the shared context verifies; requests would read its certificates anew for every connection."""
