"""
Where connections come in: gunicorn's threads, each given a request that is there as a whole.

Until then a connection costs a file and its bytes, never a thread, and is cut when its time is up.
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
from traced_relay.runtime.timer_queue import TimerQueue
from traced_relay.server.request_buffer import RequestBuffer

if TYPE_CHECKING:
    from collections.abc import Callable

_logger = logging.getLogger(__name__)

# To send a request, and to take its answer: 900 kB at 30 kB/s. Within a data centre it is a part of a second.
PATIENCE = 30.0
CLOSE_SECONDS = 5.0  # for the other side to read an answer it got before it had sent everything
SPARE_CONNECTIONS = 1000  # that may wait beside one for every thread
MOST_HELD = 64 * 1024 * 1024  # bytes of all requests that are not there as a whole
_PAUSE = 1.0
_PIECE = 32 * 1024
_OUT_OF_MEANS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

# The statuses of gunicorn, most special class first.
_STATUSES = (
    (InvalidResponseHeader, HTTPStatus.INTERNAL_SERVER_ERROR),
    (InvalidResponseHeaderName, HTTPStatus.INTERNAL_SERVER_ERROR),
    (UnsupportedTransferCoding, HTTPStatus.NOT_IMPLEMENTED),
    (LimitRequestLine, HTTPStatus.REQUEST_URI_TOO_LONG),
    (LimitRequestHeaders, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE),
    (ExpectationFailed, HTTPStatus.EXPECTATION_FAILED),
    (ParseException, HTTPStatus.BAD_REQUEST),
)


def options(threads: int) -> dict[str, Any]:
    """The settings of gunicorn that the worker needs, by name."""
    return {
        "threads": threads,
        "worker_connections": 2 * (threads + SPARE_CONNECTIONS),  # with those whose thread is to come
        "timeout": 0,
        "graceful_timeout": 1,
        "keepalive": 620,  # longer than Google's front ends keep theirs, so that they close first
        "logger_class": _Lines,
        # Whoever is on this machine is a client like any other, and says nothing about paths and schemes.
        "forwarded_allow_ips": "",
        "forwarder_headers": "",
        "secure_scheme_headers": {},
    }


class _Lines(Logger):  # type: ignore[misc]
    """gunicorn's own lines go where all lines of libraries go; it has no access log."""

    def setup(self, cfg: Any) -> None:  # noqa: ARG002  (the signature is gunicorn's)
        self.error_log.propagate = True
        self.error_log.handlers.clear()


class _Connection(TConn):  # type: ignore[misc]
    """gunicorn's, of which it believes that it is set up, and which is closed without waiting for the other side."""

    def __init__(self, *args: Any, linger: Callable[[socket.socket], None]) -> None:
        super().__init__(*args)
        self.initialized = True
        self.arriving = RequestBuffer()
        self._linger = linger

    def close(self, graceful: bool = False) -> None:
        if graceful:
            self._linger(self.sock)
        else:
            super().close()

    def refuse(self, status: int, detail: str) -> None:
        """Say why, if the other side takes it at once, and close."""
        with suppress(OSError):
            self.sock.send(_problem(status, detail))
        self.close(graceful=True)


def _problem(status: int, detail: str) -> bytes:
    document = json.dumps(problems.document_of(status, detail)).encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nConnection: close\r\n"
        f"Content-Type: application/problem+json\r\nContent-Length: {len(document)}\r\n\r\n"
    )
    return head.encode() + document


class _Wakes(PollableMethodQueue):  # type: ignore[misc]
    def close(self) -> None:
        """Stay open: a request that ends after the worker writes here, where by then another file might be."""


class BufferedWorker(ThreadWorker):  # type: ignore[misc]
    """The worker. All but `handle_request` and `handle_error` runs in its main thread."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.method_queue = _Wakes()
        self._patience: float = self.app.patience
        self._arriving: TimerQueue[_Connection] = TimerQueue()
        self._closing: TimerQueue[socket.socket] = TimerQueue()
        self._held = 0
        self._lacks_files = False
        self._accepts_from = 0.0

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled and time.monotonic() >= self._accepts_from)

    def accept(self, listener: Any) -> None:
        try:
            opened, address = listener.accept()
        except OSError as exc:
            if exc.errno in _OUT_OF_MEANS:
                self._rest(exc)
            return  # else the other side has gone again, or is still to come
        self.nr_conns += 1
        self._begin(_Connection(self.cfg, opened, address, listener.getsockname(), linger=self._linger))

    def _rest(self, exc: OSError) -> None:
        """No more files may be opened: take no more connections for a while; trying at once would go on for ever."""
        _logger.warning("a connection cannot be taken: %s", exc.strerror)
        self._lacks_files = True
        self._accepts_from = time.monotonic() + _PAUSE
        self.set_accept_enabled(False)

    def enqueue_req(self, conn: _Connection) -> None:
        """The next request begins: on a kept connection, or behind the one that was answered."""
        conn.arriving = RequestBuffer()
        if behind := conn.parser.unreader.take_buffered():
            self._held += len(behind)
            conn.arriving.add(behind)
        self._begin(conn)

    def _begin(self, conn: _Connection) -> None:
        conn.sock.setblocking(False)
        if not (self._is_settled(conn) or self._is_settled_by_reading(conn)):
            self._arriving.put(conn, time.monotonic() + self._patience)
            self._listen_to(conn)

    def _listen_to(self, conn: _Connection) -> None:
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._go_on, conn))

    def _go_on(self, conn: _Connection, _: Any) -> None:
        self.poller.unregister(conn.sock)
        if self._is_settled_by_reading(conn):
            self._arriving.discard(conn)
        else:
            self._listen_to(conn)

    def _is_settled_by_reading(self, conn: _Connection) -> bool:
        try:
            got = conn.sock.recv(_PIECE)
        except BlockingIOError:
            return False
        except OSError:
            got = b""
        if not got:
            self._drop(conn)
            return True
        self._held += len(got)
        conn.arriving.add(got)
        return self._is_settled(conn)

    def _is_settled(self, conn: _Connection) -> bool:
        """Whether nothing more is waited for: the request goes to a thread, or is refused."""
        match conn.arriving.stage:
            case "whole" | "part":
                self._held -= len(conn.arriving)
                conn.parser = get_parser(self.cfg, (), conn.client)
                conn.parser.unreader.unread(conn.arriving.taken())
                super().enqueue_req(conn)
                return True
            case "too_long_a_head":
                self._refuse(conn, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head is too long")
                return True
            case "body" if conn.arriving.expects_continue:
                conn.arriving.expects_continue = False
                with suppress(OSError):
                    conn.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        return False

    def _drop(self, conn: _Connection) -> None:
        self._held -= len(conn.arriving)
        self.nr_conns -= 1
        conn.close()

    def _refuse(self, conn: _Connection, status: int, detail: str) -> None:
        self._held -= len(conn.arriving)
        self.nr_conns -= 1
        conn.refuse(status, detail)

    def murder_pending(self) -> None:
        """After every round of events, of which there is one a second at least: close what must not wait any longer."""
        now = time.monotonic()
        while (conn := self._arriving.pop_due(now)) is not None:
            self.poller.unregister(conn.sock)
            if len(conn.arriving):
                self._refuse(conn, HTTPStatus.REQUEST_TIMEOUT, "the request did not come in time")
            else:
                self._drop(conn)
        while (closing := self._closing.pop_due(now)) is not None:
            self._close(closing)
        if self._lacks_files:
            self._free_files()
        while self._is_full():
            self._make_room()

    def _free_files(self) -> None:
        """Close half of all that only waits, so that this is not needed again at once."""
        self._lacks_files = False
        waiting = len(self._arriving) + len(self.keepalived_conns)
        for _ in range(len(self._closing) + (waiting + 1) // 2):
            self._make_room()
            self._accepts_from = 0.0

    def _is_full(self) -> bool:
        """Whether as many connections, or as many bytes, wait as may; those that have their thread are left alone."""
        waiting = len(self._arriving) + len(self._closing) + len(self.keepalived_conns)
        return waiting > self.cfg.threads + SPARE_CONNECTIONS or self._held > MOST_HELD

    def _make_room(self) -> None:
        """Close what has waited for longest, for a request to begin or to go on; before all, what only has to end."""
        began = (self._arriving.next_time() or inf) - self._patience
        if (closing := self._closing.pop_due(inf)) is not None:
            self._close(closing)
        elif self.keepalived_conns and self.keepalived_conns[0].timeout - self.cfg.keepalive < began:
            self.keepalived_conns[0].timeout = 0.0
            self.murder_keepalived()
        elif (conn := self._arriving.pop_due(inf)) is not None:
            self.poller.unregister(conn.sock)
            self._drop(conn)

    def _linger(self, closing: socket.socket) -> None:
        """Read on for a moment: with bytes unread, closing would take back the answer too (RFC 9112, section 9.6)."""
        try:
            closing.setblocking(False)
            closing.shutdown(socket.SHUT_WR)
        except OSError:
            closing.close()
            return
        self._closing.put(closing, time.monotonic() + CLOSE_SECONDS)
        self.poller.register(closing, selectors.EVENT_READ, self._read_away)

    def _read_away(self, closing: socket.socket) -> None:
        try:
            if closing.recv(_PIECE):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._closing.discard(closing)
        self._close(closing)

    def _close(self, closing: socket.socket) -> None:
        self.poller.unregister(closing)
        closing.close()

    def handle_request(self, req: Any, conn: _Connection) -> Any:
        """In a thread. An answer that is not taken in time is as good as one that nobody waits for."""
        req._expected_100_continue = False  # said already, or too late now
        _settle_host(req, conn.sock.getsockname())
        if conn.arriving.stage == "part":
            req.force_close()
        conn.sock.settimeout(self._patience)
        try:
            return super().handle_request(req, conn)
        except TimeoutError as exc:
            raise ConnectionResetError(errno.ECONNRESET, "the answer was not taken") from exc

    def handle_error(self, _: Any, client: socket.socket, addr: Any, exc: Exception) -> None:
        """In a thread. Logs the class of the error and the address; the error's text would quote the request."""
        status = next((status for kind, status in _STATUSES if isinstance(exc, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            detail, frames = "the server failed", "".join(traceback.format_tb(exc.__traceback__))
            _logger.error("a request from %s failed: %s\n%s", addr[0], type(exc).__name__, frames)
        else:
            detail = "the request breaks the rules of HTTP, or a limit, and was not read"
            _logger.warning("a request from %s was refused with %d: %s", addr[0], status, type(exc).__name__)
        client.settimeout(self._patience)
        with suppress(OSError):
            client.sendall(_problem(status, detail))


def _settle_host(req: Any, address: tuple[Any, ...]) -> None:
    """Let the application see one host, or refuse the request; HTTP/1.0 without Host means our own *address*."""
    hosts = [value for name, value in req.headers if name == "HOST"]
    own = f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
    try:
        host = asked_host(req.uri, hosts, req.version) or own
    except ValueError as exc:
        raise InvalidHeader(str(exc), req=req) from None
    req.headers = [("HOST", host), *((name, value) for name, value in req.headers if name != "HOST")]
    req.path = req.path or "/"
