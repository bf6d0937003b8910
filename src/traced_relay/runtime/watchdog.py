"""Cuts connections whose time is up, and says in between that they are alive. One thread, by an injected clock."""

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
    One exchange under watch, handed to whoever makes it.

    *cut_for* says why its end is the watch's doing, None that it is not;
    *was_sent* whether anything may have left before that.
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

    def hold(self, connection: socket.socket) -> None:
        """Let the watch cut this *connection*, at once if it is late."""
        with self._lock:
            self._connection = connection
            if self.is_aborted:
                self._shut()

    def start_sending(self) -> None:
        """From here on the other side may have got something; raises if it will get nothing any more."""
        with self._lock:
            if self.is_aborted:
                raise ConnectionAbortedError("cut before anything was sent")
            self.was_sent = True

    def release(self) -> bool:
        """Let go of the connection; whether it is still whole."""
        with self._lock:
            self._connection = None
            return not self.is_aborted

    def abort(self, reason: AbortReason) -> None:
        """End the exchange from outside; the first reason stays. Under the watch's lock."""
        self.aborted_by = self.aborted_by or reason
        self._shut()

    def _shut(self) -> None:
        if self._connection is not None:
            # Wakes whoever reads or writes; past any TLS layer, which is not made for a second thread.
            with suppress(OSError):
                socket.socket.shutdown(self._connection, socket.SHUT_RDWR)


class Watchdog:
    """Holds the deadlines and the beats of all exchanges in flight."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = Condition()
        self._guards: TimerQueue[Deadline] = TimerQueue()
        self._halted: list[Deadline] = []
        self._is_over = False
        self._napping_until: float | None = None
        self._thread = Thread(target=self._keep, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def halt(self) -> None:
        """From here on all that is under watch counts as cut, and sends nothing more; its connections are left open."""
        with self._changed:
            self._is_over = True
            while (deadline := self._guards.pop_due(float("inf"))) is not None:
                deadline.aborted_by = deadline.aborted_by or "interrupted"
                self._halted.append(deadline)
            self._changed.notify()

    def stop(self) -> None:
        """Cut all that is under watch, and all that comes under it later."""
        self.halt()
        with self._changed:
            for deadline in self._halted:
                deadline.abort("interrupted")
            self._halted.clear()
        self._thread.join()

    def abort(self, deadline: Deadline, reason: AbortReason) -> None:
        """End one exchange before its time."""
        with self._changed:
            deadline.abort(reason)

    @property
    def is_over(self) -> bool:
        return self._is_over

    @contextmanager
    def over(
        self, seconds: float, *, every: float | None = None, beat: Callable[[], None] | None = None
    ) -> Iterator[Deadline]:
        """Watch what happens inside: after so many *seconds* it is cut, and *every* so many it is said to live."""
        with self._changed:
            now = self._clock.monotonic()
            deadline = Deadline(self._changed, now + seconds, every, beat)
            if self._is_over:
                deadline.abort("interrupted")
            else:
                self._enter(deadline, now)
        try:
            yield deadline
        finally:
            with self._changed:
                self._guards.discard(deadline)

    def _enter(self, deadline: Deadline, now: float) -> None:
        at = deadline.ends_at if deadline.every is None else min(deadline.ends_at, now + deadline.every)
        self._guards.put(deadline, at)
        if self._napping_until is None or at < self._napping_until:
            self._napping_until = at
            self._changed.notify()

    def _keep(self) -> None:
        while (beats := self._next_beats()) is not None:
            for beat in beats:
                try:
                    beat()
                except Exception:
                    _logger.exception("a sign of life could not be given")  # and the others are watched on

    def _next_beats(self) -> list[Callable[[], None]] | None:
        """Cut what is late; give back what has to be said, without the lock. None once the watch is over."""
        with self._changed:
            while not self._is_over:
                beats = self._take_due()
                if beats:
                    return beats
                now = self._clock.monotonic()
                self._napping_until = self._guards.next_time()
                self._clock.wait(
                    self._changed, None if self._napping_until is None else max(self._napping_until - now, 0)
                )
        return None

    def _take_due(self) -> list[Callable[[], None]]:
        now, beats = self._clock.monotonic(), []
        while (deadline := self._guards.pop_due(now)) is not None:
            if now >= deadline.ends_at:
                deadline.abort("deadline")
                continue
            if deadline.beat is not None:
                beats.append(deadline.beat)
            self._enter(deadline, now)
        return beats
