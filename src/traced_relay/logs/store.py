"""A bounded store of records in memory, for `dev`, the console and tests."""

from __future__ import annotations

from collections import deque
from itertools import islice
from threading import Condition
from typing import Any


class RecordStore:
    """
    The latest *limit* records as they were written.

    All records after *whole_since* are kept: the start of the process, or the time of the newest discarded record.
    """

    def __init__(self, limit: int = 10_000, *, whole_since: str = "") -> None:
        self.whole_since = whole_since
        self._entries: deque[dict[str, Any]] = deque(maxlen=limit)
        self._count = 0
        self._lock = Condition()

    def add(self, entry: dict[str, Any]) -> None:
        with self._lock:
            if len(self._entries) == self._entries.maxlen:
                self.whole_since = max(self.whole_since, self._entries[0]["time"])
            self._entries.append(entry)
            self._count += 1
            self._lock.notify_all()

    def wait_for(self, event: str, task_id: str, seconds: float, *, nth: int = 1) -> dict[str, Any] | None:
        """Waits up to *seconds* for the *nth* record of *event* for the task; None if it is not written."""

        def found() -> dict[str, Any] | None:
            same = (e for e in self._entries if e.get("event") == event and e.get("task_id") == task_id)
            return next(islice(same, nth - 1, None), None)

        with self._lock:
            return self._lock.wait_for(found, seconds)

    def records(self, task_id: str | None = None) -> list[dict[str, Any]]:
        return [entry for entry in self.since(0)[1] if task_id is None or entry.get("task_id") == task_id]

    def since(self, cursor: int) -> tuple[int, list[dict[str, Any]]]:
        """The next cursor, and the records after *cursor* that are still kept; 0 is the beginning."""
        with self._lock:
            new = min(max(self._count - cursor, 0), len(self._entries))
            kept = list(self._entries)
            return self._count, kept[len(kept) - new :]
