"""Pacing of lists: those of one caller use a twentieth of a processor, so that they hardly slow other requests."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import contextmanager
from math import inf
from threading import Condition
from typing import TYPE_CHECKING

from traced_relay.errors import TooManyRequests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from traced_relay.runtime.clock import Clock

SHARE = 0.05  # of one processor, for each caller: with all that its requests cost, others keep 0.9 of their rate
MAX_PAUSE = 5.0  # seconds after one list
MAX_WAIT = 5.0
WAITING_PER_CALLER, WAITING = 2, 4  # each occupies a thread, and half of those that calls leave free stay free


class ListPacer:
    """
    Lets one list of a caller run at a time, and the next one after a pause in proportion to its processor time.

    A list that comes too early waits; TooManyRequests if too many wait already, or it would wait too long.
    """

    def __init__(self, clock: Clock, processor_time: Callable[[], float] = time.thread_time) -> None:
        self._clock = clock
        self._processor_time = processor_time
        self._changed = Condition()
        self._next_at: dict[str, float] = {}  # by caller: when the next list may begin; inf while one runs
        self._waiting: Counter[str] = Counter()

    @contextmanager
    def turn(self, caller: str) -> Iterator[None]:
        """For the processor time that this thread uses inside."""
        with self._changed:
            self._wait(caller)
            self._next_at[caller] = inf
        begun = self._processor_time()
        try:
            yield
        finally:
            self._end(caller, self._processor_time() - begun)

    def _wait(self, caller: str) -> None:
        now = self._clock.monotonic()
        if self._next_at.get(caller, 0.0) <= now:
            return
        if self._waiting[caller] >= WAITING_PER_CALLER or self._waiting.total() >= WAITING:
            raise TooManyRequests("too many lists at once: wait for the response to one before the next")
        self._waiting[caller] += 1
        try:
            until = now + MAX_WAIT
            while (next_at := self._next_at.get(caller, 0.0)) > now:
                if now >= until:
                    raise TooManyRequests(f"the lists of this caller take too long: no turn within {MAX_WAIT:g} s")
                self._clock.wait(self._changed, min(next_at, until) - now)
                now = self._clock.monotonic()
        finally:
            self._waiting[caller] -= 1

    def _end(self, caller: str, seconds: float) -> None:
        with self._changed:
            now = self._clock.monotonic()
            self._next_at = {name: at for name, at in self._next_at.items() if at > now}
            self._next_at[caller] = now + min(seconds * (1 / SHARE - 1), MAX_PAUSE)
            self._changed.notify_all()
