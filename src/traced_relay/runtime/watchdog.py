"""Deadlines and heartbeats of the exchanges in progress. One thread serves them all, by an injected clock."""

from __future__ import annotations

import logging
import socket
from contextlib import contextmanager, suppress
from threading import Condition, Thread
from typing import TYPE_CHECKING, Literal

from traced_relay.runtime.timer_queue import TimerQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from traced_relay.runtime.clock import Clock

AbortReason = Literal["deadline", "interrupted", "cancelled"]

_logger = logging.getLogger(__name__)


class Deadline:
    """
    The deadline of one exchange, given to the code that makes it.

    *aborted_by* is why the exchange was aborted, None if it was not; *was_sent* is whether the other side may have
    received something.
    """

    def __init__(self, lock: Condition, ends_at: float, every: float | None, beat: Callable[[], None] | None) -> None:
        self._lock = lock
        self.ends_at = ends_at
        self.every = every
        self.beat = beat
        self.aborted_by: AbortReason | None = None
        self.was_sent = False
        self._connection: socket.socket | None = None

    @property
    def is_aborted(self) -> bool:
        return self.aborted_by is not None

    def attach(self, connection: socket.socket) -> None:
        """Abort this *connection* when the time is up, at once if it is up already."""
        with self._lock:
            self._connection = connection
            if self.is_aborted:
                self._shut_down()

    def start_sending(self) -> None:
        """Note that the other side may receive something; ConnectionAbortedError if the exchange is aborted already."""
        with self._lock:
            if self.is_aborted:
                raise ConnectionAbortedError("aborted before anything was sent")
            self.was_sent = True

    def detach(self) -> bool:
        """Leave the connection alone from here on; whether it was not aborted."""
        with self._lock:
            self._connection = None
            return not self.is_aborted

    def abort(self, reason: AbortReason) -> None:
        """Abort the exchange; the first reason stays. The caller holds the lock."""
        self.aborted_by = self.aborted_by or reason
        self._shut_down()

    def _shut_down(self) -> None:
        if self._connection is not None:
            # Wakes the thread that reads or writes. Goes past any TLS layer, which a second thread must not use.
            with suppress(OSError):
                socket.socket.shutdown(self._connection, socket.SHUT_RDWR)


class Watchdog:
    """Aborts exchanges at their deadlines and sends their heartbeats."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = Condition()
        self._deadlines: TimerQueue[Deadline] = TimerQueue()
        self.is_stopped = False
        self._wakes_at: float | None = None
        self._thread = Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def halt(self) -> None:
        """Mark all exchanges as interrupted, so that they send nothing more; their connections stay open."""
        with self._changed:
            self.is_stopped = True
            for deadline in self._deadlines:
                deadline.aborted_by = deadline.aborted_by or "interrupted"
            self._changed.notify()

    def stop(self) -> None:
        """Abort all exchanges, also those that start later."""
        self.halt()
        with self._changed:
            for deadline in self._deadlines:
                deadline.abort("interrupted")
        self._thread.join()

    def abort(self, deadline: Deadline, reason: AbortReason) -> None:
        """Abort one exchange before its time is up."""
        with self._changed:
            deadline.abort(reason)

    @contextmanager
    def deadline(
        self, seconds: float, *, every: float | None = None, beat: Callable[[], None] | None = None
    ) -> Iterator[Deadline]:
        """A deadline after *seconds* for the exchange inside; calls *beat* every so many seconds until then."""
        with self._changed:
            now = self._clock.monotonic()
            deadline = Deadline(self._changed, now + seconds, every, beat)
            if self.is_stopped:
                deadline.abort("interrupted")
            else:
                self._schedule(deadline, now)
        try:
            yield deadline
        finally:
            with self._changed:
                self._deadlines.discard(deadline)

    def _schedule(self, deadline: Deadline, now: float) -> None:
        at = deadline.ends_at if deadline.every is None else min(deadline.ends_at, now + deadline.every)
        self._deadlines.put(deadline, at)
        if self._wakes_at is None or at < self._wakes_at:
            self._wakes_at = at
            self._changed.notify()

    def _run(self) -> None:
        while (beats := self._next_beats()) is not None:
            for beat in beats:
                try:
                    beat()
                except Exception:
                    _logger.exception("a heartbeat failed")  # the other exchanges are watched on

    def _next_beats(self) -> list[Callable[[], None]] | None:
        """Abort what is late; return the heartbeats to send without the lock, None once the watchdog is stopped."""
        with self._changed:
            while not self.is_stopped:
                beats = self._pop_due()
                if beats:
                    return beats
                now = self._clock.monotonic()
                self._wakes_at = self._deadlines.next_time()
                self._clock.wait(self._changed, None if self._wakes_at is None else max(self._wakes_at - now, 0))
        return None

    def _pop_due(self) -> list[Callable[[], None]]:
        now, beats = self._clock.monotonic(), []
        while (deadline := self._deadlines.pop_due(now)) is not None:
            if now >= deadline.ends_at:
                deadline.abort("deadline")
                continue
            if deadline.beat is not None:
                beats.append(deadline.beat)
            self._schedule(deadline, now)
        return beats
