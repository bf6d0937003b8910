"""How the queues are, for operators: looked at together, at most every few seconds, however many ask."""

from __future__ import annotations

from dataclasses import asdict, replace
from threading import Lock
from typing import TYPE_CHECKING, Any

from traced_relay.cloud_tasks.client import QueueStats
from traced_relay.errors import EnqueueFailed, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from traced_relay.runtime.clock import Clock

FRESH_FOR = 2.0
PATIENCE = 2.0  # seconds for all of them

_UNKNOWN = QueueStats()


class QueueStatuses:
    """
    *queues* are names, each with what it is for; *look* asks for one within so many seconds.

    A queue that cannot be asked is shown without state and numbers, and why.
    """

    def __init__(
        self, queues: Sequence[tuple[str, str]], look: Callable[[str, float], QueueStats], clock: Clock
    ) -> None:
        self._queues = queues
        self._look = look
        self._clock = clock
        self._lock = Lock()
        self._seen: list[dict[str, Any]] = []
        self._seen_at = float("-inf")

    def seen(self) -> list[dict[str, Any]]:
        """What was seen lately. While somebody looks again, the others take what there is and do not wait."""
        if self._is_old() and self._lock.acquire(blocking=not self._seen):
            try:
                if self._is_old():
                    self._seen = self._looked()
                    self._seen_at = self._clock.monotonic()
            finally:
                self._lock.release()
        return self._seen

    def _is_old(self) -> bool:
        return self._clock.monotonic() - self._seen_at >= FRESH_FOR

    def _looked(self) -> list[dict[str, Any]]:
        until = self._clock.monotonic() + PATIENCE
        return [{"queue": name, "for": use, **self._state(name, until)} for name, use in self._queues]

    def _state(self, name: str, until: float) -> dict[str, Any]:
        left = until - self._clock.monotonic()
        if left <= 0:
            return asdict(_UNKNOWN) | {"detail": "there was no time left to ask for it"}
        try:
            return asdict(_whole(self._look(name, left)))
        except (Unavailable, EnqueueFailed) as exc:
            return asdict(_UNKNOWN) | {"detail": str(exc)}


def _whole(look: QueueStats) -> QueueStats:
    """With 100 and not 100.0, as the rate was written."""
    rate = look.max_dispatches_per_second
    return replace(look, max_dispatches_per_second=int(rate)) if rate and rate == int(rate) else look
