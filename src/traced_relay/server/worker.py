"""
gunicorn's worker of this server: its threads wait for connections together, and each answers what it has read.

A connection with an incomplete request costs a file descriptor and its bytes, never a thread, and has a timeout.
"""

from __future__ import annotations

import errno
import logging
import os
import selectors
import socket
import time
import traceback
from contextlib import suppress
from http import HTTPStatus
from threading import Lock
from typing import TYPE_CHECKING, Any

from gunicorn.workers.base import Worker

from traced_relay.runtime.sockets import address_of
from traced_relay.server import request, response
from traced_relay.server.poller import Poller, has_input
from traced_relay.server.request_buffer import RequestBuffer
from traced_relay.server.threads import Threads

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_logger = logging.getLogger(__name__)

# Seconds to send a request, and to receive its response: 900 kB at 30 kB/s.
CLIENT_TIMEOUT = 30.0
LINGER_SECONDS = 5.0  # for the client to read a response that was sent before it had sent everything
SPARE_CONNECTIONS = 1000  # besides one for every thread
MAX_BUFFERED = 64 * 1024 * 1024  # bytes of all incomplete requests
MAX_SLOW = 4  # clients that are waited for to read, at most; half of the threads that calls leave free
_TICK, _DRAIN_TICK = 1.0, 0.02
_CHUNK = 32 * 1024
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class _Connection:
    """One thread at a time owns it: the one that has removed it from those that wait."""

    def __init__(self, sock: socket.socket, client: tuple[Any, ...], deadline: float) -> None:
        self.sock = sock
        self.descriptor = sock.fileno()
        self.client = client
        self.server = sock.getsockname()
        self.buffer = RequestBuffer()
        self.buffered = 0  # bytes of *buffer* that count as buffered
        self.since = time.monotonic()  # when the wait for this request began
        self.deadline = deadline


class BufferedWorker(Worker):  # type: ignore[misc]
    """The main thread accepts connections, and closes those whose time is over; the others read and answer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._client_timeout: float = self.app.client_timeout
        self._threads = Threads(self.cfg.threads, self._serve, self._close_poller)
        self._max_waiting: int = self.cfg.threads + SPARE_CONNECTIONS
        self._open: set[_Connection] = set()
        # By descriptor. The thread that pops a connection owns it.
        self._waiting: dict[int, _Connection] = {}
        self._lingering: dict[int, _Connection] = {}
        self._lock = Lock()
        self._buffered = self._slow = 0
        self._is_over = False
        self._accepts_from = 0.0

    def init_process(self) -> None:
        self._poller = Poller()  # after the fork
        self._end, self._ending = os.pipe()
        self._poller.add(self._end)
        super().init_process()

    def handle_exit(self, sig: Any, frame: Any) -> None:
        super().handle_exit(sig, frame)
        os.write(self.PIPE[1], b"x")  # interrupts the main thread's wait, also without a signal

    def run(self) -> None:
        self._threads.start()
        with selectors.DefaultSelector() as events:
            self._accept_until_stopped(events)
            self._drain(events)
        self._is_over = True
        os.write(self._ending, b"x")
        for conn in [*self._waiting.values(), *self._lingering.values()]:
            if self._owns(conn):
                self._close(conn)
        self._threads.stop()

    def _close_poller(self) -> None:
        self._poller.close()
        os.close(self._end)
        os.close(self._ending)

    def _accept_until_stopped(self, events: selectors.BaseSelector) -> None:
        events.register(self.PIPE[0], selectors.EVENT_READ, lambda _: os.read(self.PIPE[0], 4096))
        is_accepting, next_tick = False, 0.0
        while self.alive:
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + _TICK
                self.notify()
                if not self.is_parent_alive():
                    break
                self._close_late(now)
            accepts = now >= self._accepts_from and len(self._open) < self._max_waiting + self.cfg.threads
            if accepts != is_accepting:
                is_accepting = accepts
                for listener in self.sockets:
                    listener.setblocking(False)
                    if accepts:
                        events.register(listener, selectors.EVENT_READ, self._accept)
                    else:
                        events.unregister(listener)
            for key, _ in events.select(_TICK):
                key.data(key.fileobj)
        for listener in self.sockets:
            if is_accepting:
                events.unregister(listener)
            listener.close()

    def _drain(self, events: selectors.BaseSelector) -> None:
        """Wait a while for the running requests, and for those that clients may be sending on kept connections."""
        end = time.monotonic() + self.cfg.graceful_timeout
        while len(self._open) > len(self._lingering) and time.monotonic() < end:
            self.notify()
            if not self.keeps_idle_while_stopping():
                for conn in list(self._waiting.values()):
                    if not len(conn.buffer) and self._owns(conn):
                        self._close(conn)
            for key, _ in events.select(_DRAIN_TICK):
                key.data(key.fileobj)

    def is_parent_alive(self) -> bool:
        return bool(self.ppid == os.getppid())

    def keeps_idle_while_stopping(self) -> bool:
        return True

    def _accept(self, listener: socket.socket) -> None:
        try:
            opened, address = listener.accept()
        except OSError as exc:
            if exc.errno in _OUT_OF_RESOURCES:
                self._lack_files(exc)
            return  # else the client has disconnected, or none is waiting
        opened.setblocking(False)
        try:
            conn = _Connection(opened, address, time.monotonic() + self._client_timeout)
        except OSError:  # disconnected
            opened.close()
            return
        self._open.add(conn)
        self._waiting[conn.descriptor] = conn
        self._poller.add(conn.descriptor)
        if len(self._waiting) + len(self._lingering) > self._max_waiting:
            self._close_some(1)

    def _lack_files(self, exc: OSError) -> None:
        """Close half of the waiting connections, so that the descriptors last for a while; without any, pause."""
        _logger.warning("cannot accept a connection: %s", exc.strerror)
        if not self._close_some(len(self._lingering) + (len(self._waiting) + 1) // 2):
            self._accepts_from = time.monotonic() + _TICK

    def _close_some(self, count: int) -> int:
        """Close lingering connections, then those that have waited longest for a request or its rest."""
        oldest = sorted(self._waiting.values(), key=lambda conn: conn.since)
        closed = 0
        for conn in [*self._lingering.values(), *oldest]:
            if closed < count and self._owns(conn):
                if conn.deadline > time.monotonic() and not len(conn.buffer) and has_input(conn.sock):
                    self._wait(conn)  # its request has arrived
                    continue
                self._close(conn)
                closed += 1
        return closed

    def _close_late(self, now: float) -> None:
        """Close connections whose time is over, but for those whose input no thread was free to read."""
        for conn in list(self._lingering.values()):
            if conn.deadline <= now and self._owns(conn):
                self._close(conn)
        for conn in list(self._waiting.values()):
            if conn.deadline > now or not self._owns(conn):
                continue
            if has_input(conn.sock):
                self._wait(conn)
            elif len(conn.buffer):
                self._refuse(conn, HTTPStatus.REQUEST_TIMEOUT, "the request did not arrive in time")
            else:
                self._close(conn)

    def _owns(self, conn: _Connection) -> bool:
        """Whether this thread has removed *conn* from those that wait."""
        for waiting in (self._waiting, self._lingering):
            if waiting.get(conn.descriptor) is conn:
                return waiting.pop(conn.descriptor, None) is conn
        return False

    def _serve(self) -> None:
        """Runs in each thread."""
        while not self._is_over:
            descriptor = self._poller.wait()
            conn = self._waiting.pop(descriptor, None)
            if conn is None:
                self._discard_input(descriptor)
            elif self._is_received(conn):
                self._threads.leave()
                try:
                    self._answer(conn)
                except Exception as exc:  # noqa: BLE001  (as a lack of memory: it must not end the thread)
                    self._give_up(conn, exc)
                self._threads.enter()
        with suppress(OSError):
            self._poller.arm(self._end)  # for the next thread

    def _is_received(self, conn: _Connection) -> bool:
        try:
            return self._receive(conn)
        except Exception as exc:  # noqa: BLE001
            self._give_up(conn, exc)
            return False

    def _give_up(self, conn: _Connection, exc: Exception) -> None:
        _logger.error("a connection from %s is closed: %s", conn.client[0], type(exc).__name__)
        self._close(conn)

    def _receive(self, conn: _Connection) -> bool:
        """Read what has arrived; True if the request can be answered, and not yet counted as waiting."""
        try:
            received = conn.sock.recv(_CHUNK)
        except BlockingIOError:
            self._wait(conn)
            return False
        except OSError:
            received = b""
        if not received:
            self._close(conn)
            return False
        if not len(conn.buffer):
            conn.since = time.monotonic()
            conn.deadline = conn.since + self._client_timeout
        conn.buffer.add(received)
        return self._is_ready(conn)

    def _is_ready(self, conn: _Connection) -> bool:
        """Whether the buffered request can be answered; else it waits for more, or is refused."""
        stage = conn.buffer.stage
        if stage == "complete" or stage == "rejectable":
            self._count(conn, 0)
            return True
        if stage == "head_too_long":
            self._refuse(conn, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request head is too long")
            return False
        if stage == "body" and conn.buffer.expects_continue:
            conn.buffer.expects_continue = False
            with suppress(OSError):
                conn.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._count(conn, len(conn.buffer))
        self._wait(conn)
        while self._buffered > MAX_BUFFERED and self._close_some(1):
            pass
        return False

    def _count(self, conn: _Connection, buffered: int) -> None:
        if buffered != conn.buffered:
            with self._lock:
                self._buffered += buffered - conn.buffered
            conn.buffered = buffered

    def _wait(self, conn: _Connection) -> None:
        """Let *conn* wait for input; from here on another thread may own it."""
        self._waiting[conn.descriptor] = conn
        self._arm(conn)

    def _answer(self, conn: _Connection) -> None:
        """Answer the complete request, and those that have arrived behind it."""
        while True:
            sent, behind = conn.buffer.take_request()
            is_complete = conn.buffer.stage == "complete"
            answer, keeps = self._answer_to(conn, sent, None if is_complete else conn.buffer.limit)
            if not self._send(conn.sock, answer):
                self._close(conn)
                return
            if not keeps:
                self._linger(conn)
                return
            conn.buffer = RequestBuffer()
            conn.since = time.monotonic()
            if not behind:
                conn.deadline = conn.since + self.cfg.keepalive
                self._wait(conn)
                return
            conn.deadline = conn.since + self._client_timeout
            conn.buffer.add(behind)
            if not self._is_ready(conn):
                return

    def _answer_to(self, conn: _Connection, sent: bytes, limit: int | None) -> tuple[bytes, bool]:
        try:
            environ, keeps = request.read(sent, limit=limit)
            _add_addresses(environ, conn)
            keeps = keeps and self.alive
            return response.of_application(self.wsgi, environ, keeps=keeps), keeps
        except request.Refused as exc:
            _logger.warning("a request from %s was refused with %d: %s", conn.client[0], exc.status, exc.detail)
            return response.problem(exc.status, exc.detail), False
        except Exception as exc:  # noqa: BLE001  (of the application; its text would quote the request)
            frames = "".join(traceback.format_tb(exc.__traceback__))
            _logger.error("a request from %s failed: %s\n%s", conn.client[0], type(exc).__name__, frames)  # noqa: TRY400
            return response.problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed"), False

    def _send(self, sock: socket.socket, answer: bytes) -> bool:
        """Send all of *answer*; False if the client is gone, or does not read it in time."""
        try:
            sent = sock.send(answer)
        except BlockingIOError:
            sent = 0
        except OSError:
            return False
        return sent == len(answer) or self._send_slowly(sock, memoryview(answer)[sent:])

    def _send_slowly(self, sock: socket.socket, rest: memoryview) -> bool:
        """Wait for a client that does not read; for few at a time, since each takes a thread from the others."""
        with self._lock:
            if self._slow >= MAX_SLOW:
                return False
            self._slow += 1
        try:
            sock.settimeout(self._client_timeout)
            sock.sendall(rest)
            sock.setblocking(False)
        except OSError:
            return False
        finally:
            with self._lock:
                self._slow -= 1
        return True

    def _refuse(self, conn: _Connection, status: int, detail: str) -> None:
        """Send a problem document, if that does not block, and close."""
        with suppress(OSError):
            conn.sock.send(response.problem(status, detail))
        self._linger(conn)

    def _linger(self, conn: _Connection) -> None:
        """Discard input for a while: a close with unread bytes would reset the response (RFC 9112, section 9.6)."""
        self._count(conn, 0)
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(conn)
            return
        conn.deadline = time.monotonic() + LINGER_SECONDS
        self._lingering[conn.descriptor] = conn
        self._arm(conn)

    def _arm(self, conn: _Connection) -> None:
        """Let the poller report the input of *conn*, unless the worker is over, which has closed all that waited."""
        with suppress(OSError):  # closed by another thread meanwhile
            self._poller.arm(conn.descriptor)
        if self._is_over and self._owns(conn):
            self._close(conn)

    def _discard_input(self, descriptor: int) -> None:
        conn = self._lingering.pop(descriptor, None)
        if conn is None:
            return  # closed by another thread meanwhile, or the end
        try:
            is_closed = not conn.sock.recv(_CHUNK)
        except OSError as exc:
            is_closed = not isinstance(exc, BlockingIOError)
        if is_closed:
            self._close(conn)
            return
        self._lingering[descriptor] = conn
        self._arm(conn)

    def _close(self, conn: _Connection) -> None:
        self._count(conn, 0)
        self._open.discard(conn)
        conn.sock.close()


def _add_addresses(environ: WSGIEnvironment, conn: _Connection) -> None:
    environ["REMOTE_ADDR"] = conn.client[0]
    environ["REMOTE_PORT"] = str(conn.client[1])
    environ["SERVER_NAME"] = conn.server[0]
    environ["SERVER_PORT"] = str(conn.server[1])
    if "HTTP_HOST" not in environ:  # HTTP/1.0
        environ["HTTP_HOST"] = address_of(conn.server[0], conn.server[1])
