"""Readiness: the ledger can be read and written, and the queue answers."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

from traced_relay.errors import EnqueueFailed, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from traced_relay.ledger.protocol import Ledger
    from traced_relay.runtime.clock import Clock

YES_LASTS, NO_LASTS = 10.0, 1.0  # seconds


class Readiness:
    """
    Believes a yes for a while and a no for a moment, however often it is asked.

    One looks; who asks meanwhile takes the answer before: a queue that hangs holds one thread and not all of them.
    *refusal* is why no call would be taken on; a full house is no reason to stay away from it.
    """

    def __init__(
        self, clock: Clock, ledger: Ledger, see_queue: Callable[[], None], refusal: Callable[[], str | None]
    ) -> None:
        self._clock = clock
        self._ledger = ledger
        self._see_queue = see_queue
        self._refusal = refusal
        self._looking = Lock()
        self._look_again_at = float("-inf")
        self._was_ready = False

    def is_ready(self) -> bool:
        if self._refusal() not in (None, "capacity"):
            return False
        if self._clock.monotonic() >= self._look_again_at and self._looking.acquire(blocking=False):
            try:
                self._was_ready = self._look()
                self._look_again_at = self._clock.monotonic() + (YES_LASTS if self._was_ready else NO_LASTS)
            finally:
                self._looking.release()
        return self._was_ready

    def _look(self) -> bool:
        try:
            self._ledger.get("")
            self._see_queue()
        except (Unavailable, EnqueueFailed):
            return False
        return True
