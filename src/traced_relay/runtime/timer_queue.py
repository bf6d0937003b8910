"""What is to happen when: a heap in which each item stands once, and can be moved or taken out."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable

    Item = TypeVar("Item", bound=Hashable)
else:
    Item = TypeVar("Item")


class TimerQueue(Generic[Item]):
    """Items in the order of their times, and of arrival where times are equal. Every step is O(log n)."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Item]] = []
        self._place: dict[Item, int] = {}
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._place)

    def put(self, item: Item, time: float) -> None:
        """Enter *item*, or move it."""
        self._arrivals += 1
        self._place[item] = self._arrivals
        heappush(self._heap, (time, self._arrivals, item))
        self._tidy()

    def discard(self, item: Item) -> None:
        if self._place.pop(item, None) is not None:
            self._tidy()

    def next_time(self) -> float | None:
        while self._heap:
            time, arrival, item = self._heap[0]
            if self._place.get(item) == arrival:
                return time
            heappop(self._heap)
        return None

    def pop_due(self, now: float) -> Item | None:
        """Take out the earliest item, if it is due."""
        time = self.next_time()
        if time is None or time > now:
            return None
        item = heappop(self._heap)[2]
        del self._place[item]
        return item

    def _tidy(self) -> None:
        # Moved and discarded items stay in the heap until they surface; most of it must not be such.
        if len(self._heap) > 2 * len(self._place) + 64:
            self._heap = [entry for entry in self._heap if self._place.get(entry[2]) == entry[1]]
            heapify(self._heap)
