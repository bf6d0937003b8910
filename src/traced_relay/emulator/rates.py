"""How fast a queue may dispatch: a token bucket, halved when a worker is overloaded; and how often it did."""

from __future__ import annotations

# Our own numbers: production documents only that the effective rate falls for a while.
HALVINGS_AT_MOST = 6
SECONDS_PER_RECOVERY = 10.0


class Rate:
    """
    A token bucket of *burst* tokens, refilled *per_second*.

    Its state is the time at which the bucket is full again: comparing times loses no fraction of a
    token to rounding, and a wake-up computed here is never too early.
    """

    def __init__(self, per_second: float, burst: int) -> None:
        self._full_at = 0.0
        self._halvings = 0.0
        self._halved_at = 0.0
        self.per_second, self.burst = per_second, burst

    def ready_at(self, now: float) -> float:
        """When the next token is available; may be past."""
        spacing, burst = self._allowance(now)
        # After the system clock is set back, the queue must not stop for as long.
        self._full_at = min(self._full_at, now + burst * spacing)
        return self._full_at - (burst - 1) * spacing

    def take(self, now: float) -> bool:
        if now < self.ready_at(now):
            return False
        self._full_at = max(self._full_at, now) + self._allowance(now)[0]
        return True

    def slow_down(self, now: float) -> None:
        """Empty the bucket and halve the rate, which doubles again every ten seconds."""
        self._halvings = min(self._halved(now) + 1, HALVINGS_AT_MOST)
        self._halved_at = now
        spacing, burst = self._allowance(now)
        self._full_at = now + burst * spacing

    def effective(self, now: float) -> float:
        """Dispatches per second that are allowed now."""
        factor: float = 0.5 ** self._halved(now)
        return self.per_second * factor

    def _allowance(self, now: float) -> tuple[float, float]:
        return 1 / self.effective(now), max(1.0, self.burst * 0.5 ** self._halved(now))

    def _halved(self, now: float) -> float:
        recovered = max(0.0, now - self._halved_at) / SECONDS_PER_RECOVERY
        return max(0.0, self._halvings - recovered)


class LastMinute:
    """Counts events of the last sixty seconds, in one counter a second."""

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
