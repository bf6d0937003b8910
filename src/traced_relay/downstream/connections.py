"""
Connections to downstreams: each checks every address before it connects to it.

They measure how long connecting took, and another thread can abort them.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import certifi
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NameResolutionError, NewConnectionError

from traced_relay.downstream import strict_response
from traced_relay.downstream.addresses import NO_RANGE, Range, Reach, range_of
from traced_relay.errors import DownstreamDenied, Unavailable

if TYPE_CHECKING:
    from traced_relay.runtime.watchdog import Deadline

Resolve = Callable[..., list[tuple[Any, ...]]]  # as `socket.getaddrinfo`

OPENING_TIMEOUT = 30.0
IDLE_LIMIT = 1.0  # seconds for which a server keeps an idle connection, unless its `Keep-Alive` names less
# The share of the idle limit in which a kept connection is used again. The server counts from before its response
# arrives here until after the next request has left, so the rest is for both ways over the network.
_REUSE_SHARE = 0.5
_RESOLVERS = 64

# Google's NAT and firewalls forget a connection that is silent for ten minutes.
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
class ConnectionSetup:
    """How the connection of one exchange is opened or reused, and what came of it."""

    deadline: Deadline
    allow_private: bool  # the rule lets the call reach private addresses
    until: float  # when name, connection and TLS must be there, by `time.monotonic`
    target: str  # of the request line, sent unchanged; urllib3 would rewrite it
    may_repeat: bool  # the call is idempotent, so it may use a connection that has been idle for longer
    head_decides: bool  # the response's body is not needed
    now: Callable[[], float]  # measures idle times
    resolve: Resolve = socket.getaddrinfo
    connect: float | None = None  # seconds to connect; None for a kept connection
    tls: float | None = None  # seconds of the handshake; None without one
    is_kept: bool = False  # the connection was open already
    response: strict_response.StrictResponse | None = None
    _duplicate: socket.socket | None = field(default=None, init=False)

    def seconds_left(self) -> float:
        return max(0.001, self.until - time.monotonic())

    def may_call(self, reach: Reach) -> bool:
        return reach is Reach.PUBLIC or (reach is Reach.PRIVATE and self.allow_private)

    def denial(self, found: Range) -> DownstreamDenied:
        """Names the range, and not the address."""
        why = "its rule has no allow_private: true" if found.reach is Reach.PRIVATE else "no rule can allow that"
        return DownstreamDenied(f"the host has an address in {found}, and {why}")

    def may_use(self, connection: _Http) -> bool:
        """Whether the server of a kept *connection* still keeps it when the request arrives."""
        limit = connection.idle_limit if self.may_repeat else min(connection.idle_limit, IDLE_LIMIT)
        return self.now() - connection.idle_since < limit * _REUSE_SHARE

    @property
    def is_stale(self) -> bool:
        """Whether the connection was kept, and no byte of a response has come over it."""
        return self.is_kept and (self.response is None or not self.response.has_started)

    def attach(self, opened: socket.socket) -> None:
        """Let the deadline abort *opened* through a duplicate: the TLS handshake replaces the socket itself."""
        self.close_duplicate()
        self._duplicate = opened.dup()
        self.deadline.attach(self._duplicate)

    def close_duplicate(self) -> None:
        if self._duplicate is not None:
            self._duplicate.close()
            self._duplicate = None


current_setup: ContextVar[ConnectionSetup] = ContextVar("current_setup")


class _Response(strict_response.StrictResponse):
    """Registers itself: urllib3 drops a response whose headers it refuses, and does not close its connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        setup = current_setup.get()
        setup.response, self.head_decides = self, setup.head_decides


class _Http(HTTPConnection):
    response_class = _Response
    deadline: Deadline | None = None
    range = NO_RANGE  # of the address that it is connected to
    idle_since = 0.0
    idle_limit = 0.0

    def _new_conn(self) -> socket.socket:
        return _open(self)

    def putrequest(self, method: str, _: str, **options: Any) -> None:  # type: ignore[override]
        super().putrequest(method, current_setup.get().target, **options)

    def send(self, data: Any) -> None:
        setup = current_setup.get()
        if self.sock is None:
            self.connect()
        if not setup.may_call(self.range.reach):  # kept since a call whose rule allows more
            raise setup.denial(self.range)
        deadline = setup.deadline
        if self.deadline is not None and self.deadline is not deadline:
            self.deadline.detach()  # an earlier exchange must not abort this one
        self.deadline = deadline
        deadline.attach(self.sock)
        setup.close_duplicate()
        self.sock.settimeout(None)  # from here on only the deadline ends the exchange
        deadline.start_sending()
        super().send(data)


class _Https(_Http, HTTPSConnection):
    def connect(self) -> None:
        started = time.monotonic()
        try:
            super().connect()
            if not isinstance(self.sock, ssl.SSLSocket) or self.sock.version() is None:
                raise ConnectionResetError  # before the handshake began, which Python then leaves out
        except ssl.SSLCertVerificationError:
            raise
        except OSError as exc:  # the handshake failed, so the server has not got the request
            raise NewConnectionError(self, type(exc).__name__) from exc
        setup = current_setup.get()
        setup.tls = time.monotonic() - started - (setup.connect or 0.0)


def _open(connection: _Http) -> socket.socket:
    """Connect to the first address of the host that may be called and accepts; forbidden ones are never tried."""
    setup, started = current_setup.get(), time.monotonic()
    failure: Exception | None = None
    addresses = _resolved(connection, setup)
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        found = range_of(str(address[0]))
        if not setup.may_call(found.reach):
            failure = failure or setup.denial(found)
            continue
        try:
            share = setup.seconds_left() / (
                len(addresses) - number
            )  # an address that drops packets leaves time for the others
            opened = _connected(setup, socket.socket(family, kind, protocol), address, share)
        except OSError as exc:
            _raise_if_no_descriptor_left(exc)
            failure = NewConnectionError(connection, type(exc).__name__)
            continue
        setup.connect, connection.range = time.monotonic() - started, found
        return opened
    raise failure or NewConnectionError(connection, "the host has no address")


def _resolved(connection: _Http, setup: ConnectionSetup) -> list[tuple[Any, ...]]:
    """The addresses of the host, resolved once: the checked address is the one that is connected to."""
    # getaddrinfo has no timeout; it can only block a thread of this pool, which has no other use.
    pending = _resolvers.submit(setup.resolve, connection._dns_host, connection.port, type=socket.SOCK_STREAM)
    try:
        return pending.result(setup.seconds_left())
    except (OSError, UnicodeError, TimeoutError) as exc:
        pending.cancel()
        _raise_if_no_descriptor_left(exc)
        raise NameResolutionError(connection.host, connection, socket.gaierror(str(exc))) from exc


def _connected(setup: ConnectionSetup, opened: socket.socket, address: Any, timeout: float) -> socket.socket:
    try:
        for option in _OPTIONS:
            opened.setsockopt(*option)
        setup.attach(opened)
        opened.settimeout(timeout)
        opened.connect(address)
        opened.settimeout(setup.seconds_left())
    except BaseException:
        opened.close()
        raise
    return opened


def has_room() -> bool:
    """Whether the process has descriptors left for one more call: a socket, its duplicate and two to resolve names."""
    opened: list[int] = []
    try:
        opened += os.pipe()
        opened += os.pipe()
    except OSError:
        return False
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return True


def _raise_if_no_descriptor_left(exc: Exception) -> None:
    """Raise Unavailable if *exc* came of a lack of file descriptors, which a failed lookup does not report itself."""
    if getattr(exc, "errno", None) in (errno.EMFILE, errno.ENFILE) or (
        isinstance(exc, socket.gaierror) and not has_room()
    ):
        raise Unavailable("no file descriptor is left for a call") from exc


class _HttpPool(HTTPConnectionPool):
    """Keeps connections; closes one that its server may have closed, or that has bytes after its response."""

    ConnectionCls: type[_Http] = _Http

    def _get_conn(self, timeout: float | None = None) -> Any:
        connection: Any = super()._get_conn(timeout)
        setup = current_setup.get()
        if connection.sock is not None and not setup.may_use(connection):
            connection.close()
        setup.is_kept = connection.sock is not None
        return connection

    def _put_conn(self, conn: Any) -> None:
        setup = current_setup.get()
        if conn is not None and setup.response is not None:
            conn.idle_since = setup.now()
            conn.idle_limit = strict_response.idle_limit(setup.response.getheader("Keep-Alive"))
            if setup.response.has_trailing_bytes:
                conn.close()
        super()._put_conn(conn)


class _HttpsPool(_HttpPool, HTTPSConnectionPool):
    ConnectionCls = _Https


@cache
def tls_context() -> ssl.SSLContext:
    """
    Trusts the certificates of the machine, and certifi's for a machine without any.

    `SSL_CERT_FILE` names others. All connections share one context: with one each, a thousand calls take 800 MB.
    """
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


class Adapter(HTTPAdapter):
    """requests' adapter over these connections; it never retries, and shares one TLS context."""

    def __init__(self, connections: int, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls or tls_context()
        super().__init__(pool_connections=32, pool_maxsize=connections, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._tls, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Do nothing: the shared context verifies; requests would read its certificates again for every connection."""
