"""
gunicorn's threaded worker, changed to buffer each request: a thread gets only complete requests.

Until then a connection costs a file descriptor and its bytes, never a thread, and has a timeout.
"""

from __future__ import annotations

import errno
import json
import logging
import selectors
import socket
import time
import traceback
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from math import inf
from typing import TYPE_CHECKING, Any

from gunicorn.glogging import Logger
from gunicorn.http import get_parser
from gunicorn.http.errors import (
    ExpectationFailed,
    InvalidHeader,
    InvalidResponseHeader,
    InvalidResponseHeaderName,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.workers.gthread import PollableMethodQueue, TConn, ThreadWorker

from traced_relay.api import problems
from traced_relay.api.request_host import asked_host
from traced_relay.runtime.listener import address_of
from traced_relay.runtime.timer_queue import TimerQueue
from traced_relay.server.request_buffer import RequestBuffer

if TYPE_CHECKING:
    from collections.abc import Callable

_logger = logging.getLogger(__name__)

# Seconds to send a request, and to receive its response: 900 kB at 30 kB/s.
CLIENT_TIMEOUT = 30.0
LINGER_SECONDS = 5.0  # for the client to read a response that was sent before it had sent everything
SPARE_CONNECTIONS = 1000  # besides one for every thread
MAX_BUFFERED = 64 * 1024 * 1024  # bytes of all incomplete requests
_PAUSE = 1.0
_CHUNK = 32 * 1024
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

# The statuses of gunicorn, most special class first.
_STATUSES = (
    ((InvalidResponseHeader, InvalidResponseHeaderName), HTTPStatus.INTERNAL_SERVER_ERROR),
    (UnsupportedTransferCoding, HTTPStatus.NOT_IMPLEMENTED),
    (LimitRequestLine, HTTPStatus.REQUEST_URI_TOO_LONG),
    (LimitRequestHeaders, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE),
    (ExpectationFailed, HTTPStatus.EXPECTATION_FAILED),
    (ParseException, HTTPStatus.BAD_REQUEST),
)


def options(threads: int) -> dict[str, Any]:
    """The settings of gunicorn that the worker requires."""
    return {
        "threads": threads,
        "worker_connections": 2 * (threads + SPARE_CONNECTIONS),  # including those that wait for a thread
        "timeout": 0,
        "graceful_timeout": 1,
        "keepalive": 620,  # longer than Google's front ends, so that they close first
        "logger_class": _PropagatingLogger,
        # A client on this machine must not set path or scheme by a header either.
        "forwarded_allow_ips": "",
        "forwarder_headers": "",
        "secure_scheme_headers": {},
    }


class _PropagatingLogger(Logger):  # type: ignore[misc]
    """Sends gunicorn's log to the root logger; has no access log."""

    def setup(self, cfg: Any) -> None:  # noqa: ARG002  (the signature is gunicorn's)
        self.error_log.propagate = True
        self.error_log.handlers.clear()


class _Connection(TConn):  # type: ignore[misc]
    """A connection that gunicorn takes for initialized, and whose close does not wait for the client."""

    def __init__(self, *args: Any, linger: Callable[[socket.socket], None]) -> None:
        super().__init__(*args)
        self.initialized = True
        self.buffer = RequestBuffer()
        self._linger = linger

    def close(self, graceful: bool = False) -> None:
        if graceful:
            self._linger(self.sock)
        else:
            super().close()


def _problem(status: int, detail: str) -> bytes:
    document = json.dumps(problems.document_of(status, detail)).encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nConnection: close\r\n"
        f"Content-Type: application/problem+json\r\nContent-Length: {len(document)}\r\n\r\n"
    )
    return head.encode() + document


class _OpenQueue(PollableMethodQueue):  # type: ignore[misc]
    def close(self) -> None:
        """Stay open: a request may end after the worker, and its descriptor could by then be another file's."""


class BufferedWorker(ThreadWorker):  # type: ignore[misc]
    """Runs in its main thread, except `handle_request` and `handle_error`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.method_queue = _OpenQueue()
        self._client_timeout: float = self.app.client_timeout
        self._receiving: TimerQueue[_Connection] = TimerQueue()
        self._lingering: TimerQueue[socket.socket] = TimerQueue()
        self._buffered = 0
        self._lacks_files = False
        self._accepts_from = 0.0

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled and time.monotonic() >= self._accepts_from)

    def accept(self, listener: Any) -> None:
        try:
            opened, address = listener.accept()
        except OSError as exc:
            if exc.errno in _OUT_OF_RESOURCES:
                self._pause_accepting(exc)
            return  # else the client has disconnected, or none is waiting
        self.nr_conns += 1
        self._receive(_Connection(self.cfg, opened, address, listener.getsockname(), linger=self._linger))

    def _pause_accepting(self, exc: OSError) -> None:
        """Stop accepting for a second, since the process has no file descriptor left."""
        _logger.warning("cannot accept a connection: %s", exc.strerror)
        self._lacks_files = True
        self._accepts_from = time.monotonic() + _PAUSE
        self.set_accept_enabled(False)

    def enqueue_req(self, conn: _Connection) -> None:
        """Receive the next request on this connection; its first bytes may be buffered already."""
        conn.buffer = RequestBuffer()
        if pipelined := conn.parser.unreader.take_buffered():
            self._buffered += len(pipelined)
            conn.buffer.add(pipelined)
        self._receive(conn)

    def _receive(self, conn: _Connection) -> None:
        conn.sock.setblocking(False)
        if not (self._advance(conn) or self._read(conn)):
            self._receiving.put(conn, time.monotonic() + self._client_timeout)
            self._watch(conn)

    def _watch(self, conn: _Connection) -> None:
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_readable, conn))

    def _on_readable(self, conn: _Connection, _: Any) -> None:
        self.poller.unregister(conn.sock)
        if self._read(conn):
            self._receiving.discard(conn)
        else:
            self._watch(conn)

    def _read(self, conn: _Connection) -> bool:
        received = _received(conn.sock)
        if received is None:
            return False
        if not received:
            self._drop(conn)
            return True
        self._buffered += len(received)
        conn.buffer.add(received)
        return self._advance(conn)

    def _advance(self, conn: _Connection) -> bool:
        """Hand a complete request to a thread, or refuse it; returns False while bytes are missing."""
        match conn.buffer.stage:
            case "complete" | "rejectable":
                self._buffered -= len(conn.buffer)
                conn.parser = get_parser(self.cfg, (), conn.client)
                conn.parser.unreader.unread(conn.buffer.take())
                super().enqueue_req(conn)
                return True
            case "head_too_long":
                self._refuse(conn, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request head is too long")
                return True
            case "body" if conn.buffer.expects_continue:
                conn.buffer.expects_continue = False
                with suppress(OSError):
                    conn.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        return False

    def _refuse(self, conn: _Connection, status: int, detail: str) -> None:
        """Send a problem document, if that does not block, and close."""
        with suppress(OSError):
            conn.sock.send(_problem(status, detail))
        self._drop(conn, graceful=True)

    def _drop(self, conn: _Connection, *, graceful: bool = False) -> None:
        self._buffered -= len(conn.buffer)
        self.nr_conns -= 1
        conn.close(graceful)

    def murder_pending(self) -> None:
        """Close connections whose time is over; gunicorn calls this at least once a second."""
        now = time.monotonic()
        while (conn := self._receiving.pop_due(now)) is not None:
            self.poller.unregister(conn.sock)
            if len(conn.buffer):
                self._refuse(conn, HTTPStatus.REQUEST_TIMEOUT, "the request did not arrive in time")
            else:
                self._drop(conn)
        while (closing := self._lingering.pop_due(now)) is not None:
            self._close(closing)
        if self._lacks_files:
            self._free_files()
        while self._exceeds_limits():
            self._close_one()

    def _free_files(self) -> None:
        """Close half of the waiting connections, so that the descriptors last for a while."""
        self._lacks_files = False
        waiting = len(self._receiving) + len(self.keepalived_conns)
        for _ in range(len(self._lingering) + (waiting + 1) // 2):
            self._close_one()
            self._accepts_from = 0.0

    def _exceeds_limits(self) -> bool:
        """Whether too many connections or bytes wait; requests that have a thread do not count."""
        waiting = len(self._receiving) + len(self._lingering) + len(self.keepalived_conns)
        return waiting > self.cfg.threads + SPARE_CONNECTIONS or self._buffered > MAX_BUFFERED

    def _close_one(self) -> None:
        """Close a lingering connection, else the one that has waited longest for a request or its rest."""
        began = (self._receiving.next_time() or inf) - self._client_timeout
        if (closing := self._lingering.pop_due(inf)) is not None:
            self._close(closing)
        elif self.keepalived_conns and self.keepalived_conns[0].timeout - self.cfg.keepalive < began:
            self.keepalived_conns[0].timeout = 0.0
            self.murder_keepalived()
        elif (conn := self._receiving.pop_due(inf)) is not None:
            self.poller.unregister(conn.sock)
            self._drop(conn)

    def _linger(self, closing: socket.socket) -> None:
        """Discard input for a while: a close with unread bytes would reset the response (RFC 9112, section 9.6)."""
        try:
            closing.setblocking(False)
            closing.shutdown(socket.SHUT_WR)
        except OSError:
            closing.close()
            return
        self._lingering.put(closing, time.monotonic() + LINGER_SECONDS)
        self.poller.register(closing, selectors.EVENT_READ, self._discard_input)

    def _discard_input(self, closing: socket.socket) -> None:
        if _received(closing) == b"":
            self._lingering.discard(closing)
            self._close(closing)

    def _close(self, closing: socket.socket) -> None:
        self.poller.unregister(closing)
        closing.close()

    def handle_request(self, req: Any, conn: _Connection) -> Any:
        """Runs in a thread. A response that the client does not read in time counts as a disconnect."""
        req._expected_100_continue = False  # sent already, or too late
        _set_host(req, conn.sock.getsockname())
        if conn.buffer.stage == "rejectable":
            req.force_close()
        conn.sock.settimeout(self._client_timeout)
        try:
            return super().handle_request(req, conn)
        except TimeoutError as exc:
            raise ConnectionResetError(errno.ECONNRESET, "the client did not read the response") from exc

    def handle_error(self, _: Any, client: socket.socket, addr: Any, exc: Exception) -> None:
        """Runs in a thread. Logs the error's class and the address only: its text would quote the request."""
        status = next((status for kind, status in _STATUSES if isinstance(exc, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            detail, frames = "the server failed", "".join(traceback.format_tb(exc.__traceback__))
            _logger.error("a request from %s failed: %s\n%s", addr[0], type(exc).__name__, frames)
        else:
            detail = "the request violates HTTP or exceeds a limit, and was not read"
            _logger.warning("a request from %s was refused with %d: %s", addr[0], status, type(exc).__name__)
        client.settimeout(self._client_timeout)
        with suppress(OSError):
            client.sendall(_problem(status, detail))


def _received(sock: socket.socket) -> bytes | None:
    """The next bytes; None if none have arrived, empty if none will: the client has closed or reset the connection."""
    try:
        return sock.recv(_CHUNK)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _set_host(req: Any, address: tuple[Any, ...]) -> None:
    """Give the application exactly one host, or refuse the request; HTTP/1.0 without Host means *address*."""
    hosts = [value for name, value in req.headers if name == "HOST"]
    try:
        host = asked_host(req.uri, hosts, req.version) or address_of(address[0], address[1])
    except ValueError as exc:
        raise InvalidHeader(str(exc), req=req) from None
    req.headers = [("HOST", host), *((name, value) for name, value in req.headers if name != "HOST")]
    req.path = req.path or "/"
