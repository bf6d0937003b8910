"""Many tasks that fail together, in simulated time, by the machine and the curve that are shipped."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from random import Random
from typing import TYPE_CHECKING

from support.example_rows import BUSY, NOW, SUCCESS, call, dispatched, policy, row
from traced_relay.tasks.state_machine import Holder, arrive, end

if TYPE_CHECKING:
    from traced_relay.tasks.row import Row


@dataclass
class Herd:
    """*size* tasks, all due at once, to a downstream that answers 503 for so many seconds; what arrives each second."""

    jitter: str
    size: int = 2000
    away: float = 60.0
    seed: int = 1

    def run(self) -> None:
        self._random = Random(self.seed).random
        retry = policy(min_backoff="1s", max_backoff="5m", max_doublings=8, max_attempts=50, jitter=self.jitter)
        wish = call(retry=retry)
        self.rows = [row(task_id=f"{number:032x}", call=wish) for number in range(self.size)]
        self.arrivals: Counter[int] = Counter()
        due = [(NOW, number) for number in range(self.size)]
        heapify(due)
        while due:
            now, number = heappop(due)
            self.arrivals[int(now - NOW)] += 1
            after = self.rows[number] = self._attempted(self.rows[number], now)
            if after.next_attempt_at is not None:
                heappush(due, (after.next_attempt_at, number))

    def _attempted(self, before: Row, now: float) -> Row:
        event = dispatched(before.awaited, task_id=before.task_id)
        begun = arrive(before, event, now=now, holder=Holder.LOST, random=self._random)
        assert begun.row is not None
        ending = BUSY if now < NOW + self.away else SUCCESS
        ended = end(begun.row, ending, response=None, now=now, random=self._random)
        assert ended.row is not None
        return ended.row

    def peak(self) -> int:
        """The most that arrive in one second once the downstream is back."""
        return max(count for second, count in self.arrivals.items() if second >= self.away)

    def last(self) -> int:
        """The second in which the last of them arrives."""
        return max(self.arrivals)
