"""
Connections to downstreams: each checks every address before it connects to it.

They measure how long connecting took, and another thread can abort them.
"""

from __future__ import annotations

import errno
import http.client
import os
import re
import socket
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache, lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import certifi
import requests
import urllib3.exceptions
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NameResolutionError, NewConnectionError
from urllib3.util.wait import wait_for_read

from traced_relay.downstream.addresses import NO_RANGE, Range, Reach, range_of
from traced_relay.downstream.strict_response import StrictResponse, idle_limit
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
_PORTS = {"http": 80, "https": 443}
_MOST_ORIGINS = 32  # that keep connections
_ONE_SEND = 64 * 1024  # bytes of a body that are copied to leave with the head
_HEAD = re.compile(
    r"[A-Z]+ [!-~]+ HTTP/1\.1\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: (?:[!-~\x80-\xff][\t -~\x80-\xff]*)?\r\n)+\r\n"
)

# Google's NAT and firewalls forget a connection that is silent for ten minutes.
_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (
            ("TCP_KEEPIDLE", 60),
            ("TCP_KEEPINTVL", 60),
            ("TCP_KEEPCNT", 5),
            ("TCP_USER_TIMEOUT", 360_000),
        )
        if hasattr(socket, name)  # not every system has them all
    ),
)

_resolvers = ThreadPoolExecutor(_RESOLVERS, "resolver")


@dataclass(frozen=True)
class Origin:
    """Scheme, host and port of a URL, as requests normalizes them; *url* has no slash at its end."""

    url: str
    scheme: str
    host: str
    port: int
    host_header: str


@lru_cache(1024)
def origin_of(text: str) -> Origin:
    """The origin that *text* names; RequestException or ValueError if requests cannot send to it."""
    url = str(requests.Request("GET", f"{text}/").prepare().url).removesuffix("/")
    parts = urlsplit(url)
    host, usual = parts.hostname, _PORTS.get(parts.scheme)
    if host is None or usual is None:
        raise requests.exceptions.InvalidURL("no http or https URL")
    port = parts.port or usual
    name = f"[{host}]" if ":" in host else host.rstrip(".")
    return Origin(url, parts.scheme, host, port, name if port == usual else f"{name}:{port}")


@dataclass
class ConnectionSetup:
    """How the connection of one exchange is opened or reused, and what came of it."""

    origin: Origin
    deadline: Deadline
    allow_private: bool  # the rule lets the call reach private addresses
    until: float  # when name, connection and TLS must be there, by `time.monotonic`
    target: str  # of the request line, sent unchanged
    may_repeat: bool  # the call is idempotent, so it may use a connection that has been idle for longer
    head_decides: bool  # the response's body is not needed
    now: Callable[[], float]  # measures idle times
    resolve: Resolve = socket.getaddrinfo
    connect: float | None = None  # seconds to connect; None for a kept connection
    tls: float | None = None  # seconds of the handshake; None without one
    is_kept: bool = False  # the connection was open already
    response: StrictResponse | None = None
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


class _Http(HTTPConnection):
    range = NO_RANGE  # of the address that it is connected to
    idle_since = 0.0
    idle_limit = 0.0

    def _new_conn(self) -> socket.socket:
        return _open(self)

    def exchange(self, setup: ConnectionSetup, method: str, head: bytes, body: bytes) -> StrictResponse:
        """Send a request, and read the head of its response."""
        if self.sock is None:
            self.connect()
        if not setup.may_call(self.range.reach):  # kept since a call whose rule allows more
            raise setup.denial(self.range)
        connection: socket.socket = self.sock
        setup.deadline.attach(connection)
        setup.close_duplicate()
        connection.settimeout(None)  # from here on only the deadline ends the exchange
        setup.deadline.start_sending()
        # A server may respond before it has read the whole request, and close the connection.
        with suppress(BrokenPipeError, ConnectionResetError):
            if len(body) <= _ONE_SEND:
                connection.sendall(head + body)
            else:
                connection.sendall(head)
                connection.sendall(body)
        setup.response = StrictResponse(connection, method, head_decides=setup.head_decides)
        setup.response.read_head()
        return setup.response


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
    pending = _resolvers.submit(setup.resolve, setup.origin.host, connection.port, type=socket.SOCK_STREAM)
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


@cache
def tls_context() -> ssl.SSLContext:
    """
    Trusts the certificates of the machine, and certifi's for a machine without any.

    `SSL_CERT_FILE` names others. All connections share one context: with one each, a thousand calls take 800 MB.
    """
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


class Received(requests.Response):
    """A response whose body is read from *raw*; `close` keeps its connection, if that takes another request."""

    raw: StrictResponse

    def __init__(self, request: requests.PreparedRequest, raw: StrictResponse, release: Callable[[], None]) -> None:
        # requests would make a jar for cookies, which this relay never takes.
        self.request, self.raw, self._release = request, raw, release
        self.url, self.status_code, self.headers = str(request.url), raw.status, CaseInsensitiveDict(raw.headers)
        self.history: list[requests.Response] = []

    def close(self) -> None:
        release, self._release = self._release, lambda: None
        release()


class Adapter(BaseAdapter):
    """requests' adapter over these connections; it never retries, and shares one TLS context."""

    def __init__(self, connections: int, tls: ssl.SSLContext | None = None) -> None:
        super().__init__()
        self._tls = tls or tls_context()
        self._most = connections  # kept for one origin
        self._kept: OrderedDict[str, list[_Http]] = OrderedDict()  # the origin that was used last is the last
        self._lock = Lock()

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> Received:
        setup = current_setup.get()
        lines = [f"{request.method} {setup.target} HTTP/1.1\r\nHost: {setup.origin.host_header}\r\n"]
        lines += [f"{name}: {value}\r\n" for name, value in request.headers.items()]
        head = "".join([*lines, "\r\n"])
        if not _HEAD.fullmatch(head) or head.count("\n") != len(lines) + 2:  # no header is two lines
            raise requests.exceptions.InvalidHeader("a request line or header that HTTP does not allow")
        connection = self._take(setup)
        try:
            raw = connection.exchange(
                setup, str(request.method), head.encode("latin-1"), cast("bytes", request.body or b"")
            )
        except BaseException as exc:
            connection.close()
            if isinstance(exc, ssl.SSLCertVerificationError):
                raise requests.exceptions.SSLError(exc, request=request) from exc
            if isinstance(exc, (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError)):
                raise requests.ConnectionError(exc, request=request) from exc
            raise
        return Received(request, raw, lambda: self._release(connection, setup))

    def close(self) -> None:
        with self._lock:
            self._most, kept = 0, self._kept
            self._kept = OrderedDict()
        for connections in kept.values():
            _close_all(connections)

    def _take(self, setup: ConnectionSetup) -> _Http:
        """A kept connection that its server still keeps, or else a new one."""
        with self._lock:
            kept = self._kept.get(setup.origin.url)
            connection = kept.pop() if kept else None
        if connection is not None and setup.may_use(connection) and not wait_for_read(connection.sock, 0.0):
            setup.is_kept = True
            return connection
        if connection is not None:
            connection.close()
        if setup.origin.scheme == "https":
            return _Https(setup.origin.host, setup.origin.port, ssl_context=self._tls, cert_reqs="CERT_REQUIRED")
        return _Http(setup.origin.host, setup.origin.port)

    def _release(self, connection: _Http, setup: ConnectionSetup) -> None:
        """Keep the *connection*, or close it: if its response is incomplete, or bytes follow, or it was aborted."""
        response, dropped = setup.response, [connection]
        if response is not None and response.keeps_connection and not setup.deadline.is_aborted:
            connection.idle_since = setup.now()
            connection.idle_limit = idle_limit(response.headers.get("keep-alive"))
            with self._lock:
                kept = self._kept.setdefault(setup.origin.url, [])
                self._kept.move_to_end(setup.origin.url)
                if len(kept) < self._most:
                    kept.append(connection)
                    dropped = []
                if len(self._kept) > _MOST_ORIGINS:
                    dropped += self._kept.popitem(last=False)[1]
        _close_all(dropped)


def _close_all(connections: list[_Http]) -> None:
    for connection in connections:
        connection.close()
