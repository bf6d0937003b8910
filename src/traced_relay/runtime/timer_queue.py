"""A heap of items by time in which each item occurs once, and can be moved or removed."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class TimerQueue(Generic[Item]):
    """Items ordered by time, and by arrival where times are equal. Every operation is O(log n)."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Item]] = []
        self._arrival_of: dict[Item, int] = {}
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._arrival_of)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._arrival_of)

    def put(self, item: Item, time: float) -> None:
        """Add *item*, or move it to *time*."""
        self._arrivals += 1
        self._arrival_of[item] = self._arrivals
        heappush(self._heap, (time, self._arrivals, item))
        self._compact()

    def discard(self, item: Item) -> None:
        if self._arrival_of.pop(item, None) is not None:
            self._compact()

    def next_time(self) -> float | None:
        while self._heap:
            time, arrival, item = self._heap[0]
            if self._arrival_of.get(item) == arrival:
                return time
            heappop(self._heap)
        return None

    def pop_due(self, now: float) -> Item | None:
        """Remove and return the earliest item, if it is due."""
        time = self.next_time()
        if time is None or time > now:
            return None
        item = heappop(self._heap)[2]
        del self._arrival_of[item]
        return item

    def _compact(self) -> None:
        # Moved and discarded items stay in the heap until they reach its top; they must not become most of it.
        if len(self._heap) > 2 * len(self._arrival_of) + 64:
            self._heap = [entry for entry in self._heap if self._arrival_of.get(entry[2]) == entry[1]]
            heapify(self._heap)
