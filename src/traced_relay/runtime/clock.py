"""The time, as an argument. No other module sleeps or reads the system's clock."""

from __future__ import annotations

import time
from threading import Condition, local
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since the Unix epoch, for stored and displayed times."""

    def monotonic(self) -> float:
        """Seconds that never jump, for durations."""

    def wait(self, condition: Condition, seconds: float | None) -> None:
        """Wait on the held *condition* for at most *seconds*. May return early; the caller checks again."""


def pause(clock: Clock, until: float) -> None:
    """Wait until the *clock*'s monotonic time is *until*."""
    quiet = Condition()
    with quiet:
        while (left := until - clock.monotonic()) > 0:
            clock.wait(quiet, left)


def epoch_ns() -> int:
    """Nanoseconds since the Unix epoch, for spans: OpenTelemetry takes no clock."""
    return time.time_ns()


class SystemClock:
    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def wait(self, condition: Condition, seconds: float | None) -> None:
        condition.wait(seconds)


class ManualClock:
    """A clock that only `advance` moves, which wakes the threads that wait on it."""

    def __init__(self, now: float = 1_790_000_000.0) -> None:
        self._now = now
        self._changed = Condition()
        self._waiting: set[Condition] = set()
        self._last_read = local()

    def now(self) -> float:
        self._last_read.now = self._now
        return self._now

    def monotonic(self) -> float:
        return self.now()

    def wait(self, condition: Condition, seconds: float | None) -> None:
        # The seconds count from the time that this thread read last; another thread may have advanced it since.
        until = None if seconds is None else getattr(self._last_read, "now", self._now) + seconds
        with self._changed:
            if until is not None and self._now >= until:
                return
            self._waiting.add(condition)
        condition.wait()

    def advance(self, seconds: float) -> None:
        with self._changed:
            self._now += seconds
            waiting, self._waiting = self._waiting, set()
        for condition in waiting:
            with condition:
                condition.notify_all()
