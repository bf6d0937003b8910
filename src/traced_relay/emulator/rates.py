"""
How fast a queue may dispatch: a token bucket, and the slowing down that an overloaded worker brings about.

And how fast it did.
"""

from __future__ import annotations

# The magnitudes are ours: of production it is only known that the queue's effective rate goes down for a while.
HALVINGS_AT_MOST = 6
SECONDS_PER_RECOVERY = 10.0


class Rate:
    """
    A token bucket of *burst* tokens, refilled *per_second*.

    It is kept as one time, the one at which the bucket will be full again: comparing times
    cannot lose fractions of a token to rounding, and a wake-up computed here is never too early.
    """

    def __init__(self, per_second: float, burst: int) -> None:
        self._full_at = 0.0
        self._halvings = 0.0
        self._halved_at = 0.0
        self.change(per_second, burst)

    def change(self, per_second: float, burst: int) -> None:
        self._per_second, self._burst = per_second, burst

    def ready_at(self, now: float) -> float:
        """When the next token is, or was, there."""
        spacing, burst = self._now_allowed(now)
        # A system clock set back must not stop the queue for as long as it was set back.
        self._full_at = min(self._full_at, now + burst * spacing)
        return self._full_at - (burst - 1) * spacing

    def take(self, now: float) -> bool:
        if now < self.ready_at(now):
            return False
        self._full_at = max(self._full_at, now) + self._now_allowed(now)[0]
        return True

    def slow_down(self, now: float) -> None:
        """Empty the bucket and halve the rate; it doubles again every ten seconds."""
        self._halvings = min(self._halved(now) + 1, HALVINGS_AT_MOST)
        self._halved_at = now
        spacing, burst = self._now_allowed(now)
        self._full_at = now + burst * spacing

    def effective(self, now: float) -> float:
        """Dispatches per second, as far as the queue is slowed down now."""
        factor: float = 0.5 ** self._halved(now)
        return self._per_second * factor

    def _now_allowed(self, now: float) -> tuple[float, float]:
        return 1 / self.effective(now), max(1.0, self._burst * 0.5 ** self._halved(now))

    def _halved(self, now: float) -> float:
        recovered = max(0.0, now - self._halved_at) / SECONDS_PER_RECOVERY
        return max(0.0, self._halvings - recovered)


class LastMinute:
    """How often something happened in the last sixty seconds; kept as one count a second."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def add(self, now: float) -> None:
        second = int(now)
        self._counts[second] = self._counts.get(second, 0) + 1
        if len(self._counts) > _MINUTE:
            del self._counts[next(iter(self._counts))]

    def count(self, now: float) -> int:
        return sum(count for second, count in self._counts.items() if 0 <= int(now) - second < _MINUTE)


_MINUTE = 60
