"""Names that are reserved for a while after use."""

from __future__ import annotations

from itertools import takewhile


class Tombstones:
    """
    The names of deleted resources, for *window* seconds each.

    All last equally long, so they expire in the order of insertion.
    """

    def __init__(self, window: float) -> None:
        self.window = window
        self._until: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def add(self, name: str, now: float) -> float:
        """Reserve the *name*; returns until when."""
        return self.restore(name, now + self.window)

    def restore(self, name: str, until: float) -> float:
        self._until.pop(name, None)
        self._until[name] = until
        return until

    def is_reserved(self, name: str, now: float) -> bool:
        return self._until.get(name, now) > now

    def expire(self, now: float) -> None:
        for name, _ in list(takewhile(lambda reserved: reserved[1] <= now, self._until.items())):
            del self._until[name]
