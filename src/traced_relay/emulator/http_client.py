"""HTTP/1.1 to workers: one exchange on a connection, and a pool of idle connections."""

from __future__ import annotations

import re
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

_CHUNK = 65536
CONNECT_SECONDS = 30.0
# Servers close idle connections after two seconds or more; one closed during reuse would look like a
# failed attempt, so the pool keeps them for less.
IDLE_SECONDS = 1.0


class BrokenExchange(Exception):
    """The connection ended, or the response was not HTTP; what the worker did is unknown."""


class Reply(NamedTuple):
    """The parts of a response that decide a dispatch; its body is dropped."""

    status: int
    retry_after: str | None
    is_reusable: bool


# What almost every response looks like; its fields hold no more than h11 accepts.
_PLAIN_HEAD = re.compile(rb"HTTP/1\.1 ([2-9]\d\d)(?: [\t -~]*)?\r\n((?:[!#-'*+.^_`|~0-9A-Za-z-]+:[\t -~]*\r\n)*)\r\n")
_FRAMING = re.compile(
    rb"^(content-length|transfer-encoding|connection|retry-after):[ \t]*(.*?)[ \t]*\r$", re.IGNORECASE | re.MULTILINE
)
_LENGTH = re.compile(rb"\d{1,18}")
_BODILESS = (204, 304)


def exchange(connection: socket.socket, request: bytes, method: str) -> Reply:
    """Send *request* and read the complete response."""
    connection.sendall(request)
    start = connection.recv(_CHUNK)
    plain = _read_plain(connection, start, method)
    return _read_any(connection, start, method) if plain is None else plain


def _read_plain(connection: socket.socket, start: bytes, method: str) -> Reply | None:
    """
    The response whose first bytes are *start*, if it has a whole plain head; None leaves it to h11.

    h11 reads every response alike, and its events cost 50 us of each attempt where this costs 4.
    """
    head = _PLAIN_HEAD.match(start)
    if head is None:
        return None
    found = _FRAMING.findall(head[2])
    fields = {name.lower(): value for name, value in found}
    persistence = fields.get(b"connection", b"keep-alive").lower()
    status = int(head[1])
    has_body = method != "HEAD" and status not in _BODILESS
    length = fields.get(b"content-length", b"none" if has_body else b"0")
    if len(fields) < len(found) or b"transfer-encoding" in fields or persistence not in (b"keep-alive", b"close"):
        return None
    if not _LENGTH.fullmatch(length):
        return None
    left = head.end() - len(start) + (int(length) if has_body else 0)
    while left > 0:
        data = connection.recv(_CHUNK)
        if not data:
            raise BrokenExchange("the connection ended")
        left -= len(data)
    retry_after = fields.get(b"retry-after")
    return Reply(
        status,
        None if retry_after is None else retry_after.decode("latin-1"),
        is_reusable=left == 0 and persistence == b"keep-alive",
    )


def _read_any(connection: socket.socket, start: bytes, method: str) -> Reply:
    http = h11.Connection(h11.CLIENT)
    # The request was sent as bytes; h11 only needs to know which response to expect.
    http.send(h11.Request(method=method, target="/", headers=[("Host", "worker")]))
    http.send(h11.EndOfMessage())
    reply = Reply(0, None, False)
    try:
        http.receive_data(start)
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(connection.recv(_CHUNK))
            elif isinstance(event, h11.Response):
                value = dict(event.headers).get(b"retry-after")
                reply = Reply(event.status_code, None if value is None else value.decode("latin-1"), False)
            elif isinstance(event, h11.EndOfMessage):
                is_open = http.their_state is h11.DONE and http.trailing_data == (b"", False)
                return reply._replace(is_reusable=is_open)
    except h11.RemoteProtocolError as exc:
        raise BrokenExchange("not HTTP") from exc


@cache
def _system_trust() -> ssl.SSLContext:
    return ssl.create_default_context()


class Connections:
    """Idle connections by origin; the most recent is used first."""

    def __init__(self, clock: Clock, *, tls: Callable[[], ssl.SSLContext] = _system_trust) -> None:
        self._clock = clock
        self._tls = tls
        self._lock = Lock()
        self._idle: dict[Origin, deque[tuple[float, socket.socket]]] = {}

    def get(self, origin: Origin, seconds: float, hold: Callable[[socket.socket], None]) -> socket.socket:
        """
        An idle connection to *origin*, or a new one within *seconds*.

        *hold* gets it before the TLS handshake, so that it can be aborted.
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
            while now - idle[0][0] >= IDLE_SECONDS:
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
            if self._clock.monotonic() - since < IDLE_SECONDS and not _has_ended(connection):
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
    # No data is expected on an idle connection: anything readable is its end, or not HTTP.
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))
