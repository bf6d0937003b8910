"""
The way out: connections that check every address before they connect to it.

They say how long opening took, and can be cut from another thread.
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
from traced_relay.downstream.addresses import NOWHERE, Range, Reach, range_of
from traced_relay.errors import DownstreamDenied, Unavailable

if TYPE_CHECKING:
    from traced_relay.runtime.watchdog import Deadline

Resolve = Callable[..., list[tuple[Any, ...]]]  # as `socket.getaddrinfo`

OPENING_TIMEOUT = 30.0
KEPT_FOR = 1.0  # seconds for which a server keeps an idle connection, unless its `Keep-Alive` names less
# The share of that time in which a kept connection is used. The server counts from before its answer arrives here to
# after the next request has left, so the rest is for the way there and back.
_SURE = 0.5
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
class ConnectionSetup:
    """
    How the connection of one exchange is opened.

    *until* is when name, connection and TLS must be there, by `time.monotonic`;
    *target* goes into the request line as it is, where urllib3 would rewrite it.
    *connect* and *tls* are the seconds they took, None where a kept connection
    was used, or TLS is not. A request that *may_repeat* may use a connection
    that has been idle for longer, by *now*. *head_decides* where the answer's
    body is not needed.
    """

    deadline: Deadline
    allow_private: bool
    until: float
    target: str
    may_repeat: bool
    head_decides: bool
    now: Callable[[], float]
    resolve: Resolve = socket.getaddrinfo
    connect: float | None = None
    tls: float | None = None
    is_kept: bool = False
    answer: strict_response.StrictResponse | None = None
    _twin: socket.socket | None = field(default=None, init=False)

    def left(self) -> float:
        return max(0.001, self.until - time.monotonic())

    def may_call(self, reach: Reach) -> bool:
        return reach is Reach.PUBLIC or (reach is Reach.PRIVATE and self.allow_private)

    def denial(self, found: Range) -> DownstreamDenied:
        """Says which range it is, and not the address."""
        leave = "its rule has no allow_private: true" if found.reach is Reach.PRIVATE else "no rule can allow that"
        return DownstreamDenied(f"the host has an address in {found}, and {leave}")

    def may_use(self, connection: _Http | _Https) -> bool:
        """Whether the server of a kept *connection* still keeps it when the request arrives."""
        limit = connection.idle_limit if self.may_repeat else min(connection.idle_limit, KEPT_FOR)
        return self.now() - connection.idle_since < limit * _SURE

    @property
    def is_stale(self) -> bool:
        """Whether the connection was kept, and no byte of an answer has come over it."""
        return self.is_kept and (self.answer is None or not self.answer.has_begun)

    def hold(self, opened: socket.socket) -> None:
        """Let the guard cut what is being opened; by a twin, because TLS takes the socket itself away."""
        self.let_go()
        self._twin = opened.dup()
        self.deadline.hold(self._twin)

    def let_go(self) -> None:
        if self._twin is not None:
            self._twin.close()
            self._twin = None


opening: ContextVar[ConnectionSetup] = ContextVar("opening")


class _Response(strict_response.StrictResponse):
    """Makes itself known: urllib3 drops an answer whose headers it refuses without closing what it came by."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        this = opening.get()
        this.answer, self.head_decides = self, this.head_decides


class _Http(HTTPConnection):
    response_class = _Response
    deadline: Deadline | None = None
    found = NOWHERE
    idle_since = 0.0
    idle_limit = 0.0

    def _new_conn(self) -> socket.socket:
        return _open(self)

    def putrequest(self, method: str, _: str, **options: Any) -> None:  # type: ignore[override]
        super().putrequest(method, opening.get().target, **options)

    def send(self, data: Any) -> None:
        _hold_for_sending(self)
        super().send(data)


class _Https(HTTPSConnection):
    response_class = _Response
    deadline: Deadline | None = None
    found = NOWHERE
    idle_since = 0.0
    idle_limit = 0.0

    def _new_conn(self) -> socket.socket:
        return _open(self)

    def connect(self) -> None:
        started = time.monotonic()
        try:
            super().connect()
            if not isinstance(self.sock, ssl.SSLSocket) or self.sock.version() is None:
                raise ConnectionResetError  # before the handshake began, which Python then leaves out
        except ssl.SSLCertVerificationError:
            raise
        except OSError as exc:  # the handshake hung, was cut off or led nowhere: nobody has got the request
            raise NewConnectionError(self, type(exc).__name__) from exc
        this = opening.get()
        this.tls = time.monotonic() - started - (this.connect or 0.0)

    def putrequest(self, method: str, _: str, **options: Any) -> None:  # type: ignore[override]
        super().putrequest(method, opening.get().target, **options)

    def send(self, data: Any) -> None:
        _hold_for_sending(self)
        super().send(data)


def _hold_for_sending(connection: _Http | _Https) -> None:
    this = opening.get()
    if connection.sock is None:
        connection.connect()
    if not this.may_call(connection.found.reach):  # kept since a call whose rule allows more
        raise this.denial(connection.found)
    deadline = this.deadline
    if connection.deadline is not None and connection.deadline is not deadline:
        connection.deadline.release()  # late as it is, it may no longer cut what it once held
    connection.deadline = deadline
    deadline.hold(connection.sock)
    this.let_go()
    connection.sock.settimeout(None)  # from here on only the guard says when it is too late
    deadline.start_sending()


def _open(connection: _Http | _Https) -> socket.socket:
    """Connect to the first address of the host that may be called and answers; no other is ever tried."""
    this, started = opening.get(), time.monotonic()
    failure: Exception | None = None
    addresses = _resolved(connection, this)
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        found = range_of(str(address[0]))
        if not this.may_call(found.reach):
            failure = failure or this.denial(found)
            continue
        try:
            share = this.left() / (len(addresses) - number)  # an address that swallows packets leaves the others theirs
            opened = _connected(this, socket.socket(family, kind, protocol), address, share)
        except OSError as exc:
            _blame_ourselves(exc)
            failure = NewConnectionError(connection, type(exc).__name__)
            continue
        this.connect, connection.found = time.monotonic() - started, found
        return opened
    raise failure or NewConnectionError(connection, "the host has no address")


def _resolved(connection: _Http | _Https, this: ConnectionSetup) -> list[tuple[Any, ...]]:
    """The addresses of the host, asked for once: what is checked is what is connected to."""
    # getaddrinfo knows no timeout; a thread that it holds up is one of a few that serve for nothing else.
    asked = _resolvers.submit(this.resolve, connection._dns_host, connection.port, type=socket.SOCK_STREAM)
    try:
        return asked.result(this.left())
    except (OSError, UnicodeError, TimeoutError) as exc:
        asked.cancel()
        _blame_ourselves(exc)
        raise NameResolutionError(connection.host, connection, socket.gaierror(str(exc))) from exc


def _connected(this: ConnectionSetup, opened: socket.socket, address: Any, patience: float) -> socket.socket:
    try:
        for option in _OPTIONS:
            opened.setsockopt(*option)
        this.hold(opened)
        opened.settimeout(patience)
        opened.connect(address)
        opened.settimeout(this.left())
    except BaseException:
        opened.close()
        raise
    return opened


def has_room() -> bool:
    """Whether the process has descriptors left for one more call: its socket, a twin of it and two to look up names."""
    held: list[int] = []
    try:
        held += os.pipe()
        held += os.pipe()
    except OSError:
        return False
    finally:
        for descriptor in held:
            os.close(descriptor)
    return True


def _blame_ourselves(exc: Exception) -> None:
    """Raise Unavailable where it was this process that had no descriptor left; lookups do not say so themselves."""
    if getattr(exc, "errno", None) in (errno.EMFILE, errno.ENFILE) or (
        isinstance(exc, socket.gaierror) and not has_room()
    ):
        raise Unavailable("no file descriptor is left for a call") from exc


class _HttpPool(HTTPConnectionPool):
    """Keeps connections; closes one that its server may have closed, or over which more than an answer came."""

    ConnectionCls: type[_Http | _Https] = _Http

    def _get_conn(self, timeout: float | None = None) -> Any:
        connection: Any = super()._get_conn(timeout)
        this = opening.get()
        if connection.sock is not None and not this.may_use(connection):
            connection.close()
        this.is_kept = connection.sock is not None
        return connection

    def _put_conn(self, conn: Any) -> None:
        this = opening.get()
        if conn is not None and this.answer is not None:
            conn.idle_since, conn.idle_limit = (
                this.now(),
                strict_response.idle_limit(this.answer.getheader("Keep-Alive")),
            )
            if this.answer.is_followed:
                conn.close()
        super()._put_conn(conn)


class _HttpsPool(_HttpPool, HTTPSConnectionPool):
    ConnectionCls = _Https


@cache
def trusted() -> ssl.SSLContext:
    """
    Trusts what the machine does, and where it has no list, the one that we bring.

    `SSL_CERT_FILE` names others. There is one context: with one for each
    connection a thousand calls take 800 MB.
    """
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


class Adapter(HTTPAdapter):
    """requests' adapter over connections of ours; it never tries again by itself, and shares one TLS context."""

    def __init__(self, connections: int, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls or trusted()
        super().__init__(pool_connections=32, pool_maxsize=connections, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._tls, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Nothing: the shared context verifies; requests would read its certificates anew for every connection."""
