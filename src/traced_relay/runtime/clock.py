"""The time, as an argument. Nothing else in the package sleeps or asks the system what time it is."""

from __future__ import annotations

import time
from threading import Condition, local
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since the Unix epoch, for what is stored and shown."""

    def monotonic(self) -> float:
        """Seconds that never jump, for measuring how long something took."""

    def wait(self, condition: Condition, seconds: float | None) -> None:
        """
        Wait on the held *condition* for at most the given *seconds*.

        May return early; whoever waits looks again at what it waits for.
        """


def pause(clock: Clock, until: float) -> None:
    """Wait until that moment of the *clock*'s monotonic time."""
    quiet = Condition()
    with quiet:
        while (left := until - clock.monotonic()) > 0:
            clock.wait(quiet, left)


class SystemClock:
    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def wait(self, condition: Condition, seconds: float | None) -> None:
        condition.wait(seconds)


class ManualClock:
    """A clock that stands still until it is told to advance; wakes whoever waits on it."""

    def __init__(self, now: float = 1_790_000_000.0) -> None:
        self._now = now
        self._changed = Condition()
        self._waiting: set[Condition] = set()
        self._seen = local()

    def now(self) -> float:
        self._seen.now = self._now
        return self._now

    def monotonic(self) -> float:
        return self.now()

    def wait(self, condition: Condition, seconds: float | None) -> None:
        # The seconds were reckoned from the time this thread saw last; it may have moved on since.
        until = None if seconds is None else getattr(self._seen, "now", self._now) + seconds
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
