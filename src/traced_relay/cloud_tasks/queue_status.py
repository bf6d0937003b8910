"""Status of every queue of relay.yaml, for operators: fetched for all queues together, cached for 2 s."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from traced_relay.cloud_tasks.client import QueueStats
from traced_relay.errors import EnqueueFailed, Unavailable
from traced_relay.runtime.refreshing import Refreshing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from traced_relay.runtime.clock import Clock

FRESH_FOR = 2.0
TIMEOUT = 2.0  # seconds for all queues together

_UNKNOWN = QueueStats()


class QueueStatuses:
    """
    Status of *queues*, each a name and its use; *get_stats* gets one queue's statistics within the given seconds.

    A queue whose statistics cannot be fetched is listed without state and numbers, and with the reason.
    """

    def __init__(
        self, queues: Sequence[tuple[str, str]], get_stats: Callable[[str, float], QueueStats], clock: Clock
    ) -> None:
        self._queues = queues
        self._get_stats = get_stats
        self._clock = clock
        self._statuses = Refreshing(self._fetch_all, clock, fresh_for=lambda _: FRESH_FOR, retry_after=0.0)

    def get(self) -> list[dict[str, Any]]:
        return self._statuses.get()

    def _fetch_all(self) -> list[dict[str, Any]]:
        ends_at = self._clock.monotonic() + TIMEOUT
        return [{"queue": name, "for": use, **self._fetch(name, ends_at)} for name, use in self._queues]

    def _fetch(self, name: str, ends_at: float) -> dict[str, Any]:
        left = ends_at - self._clock.monotonic()
        if left <= 0:
            return asdict(_UNKNOWN) | {"detail": "it was not fetched in time"}
        try:
            stats = self._get_stats(name, left)
        except (Unavailable, EnqueueFailed) as exc:
            return asdict(_UNKNOWN) | {"detail": str(exc)}
        rate = stats.max_dispatches_per_second
        if rate and rate == int(rate):  # 100, as in relay.yaml, and not 100.0
            stats = replace(stats, max_dispatches_per_second=int(rate))
        return asdict(stats)
