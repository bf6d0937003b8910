"""Names that were used and may not be used again for a while."""

from __future__ import annotations


class Tombstones:
    """
    Names of things that ended, for *window* seconds each.

    All last equally long, so the oldest is always the first: sweeping looks at no more than it removes.
    """

    def __init__(self, window: float) -> None:
        self.window = window
        self._until: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def bury(self, name: str, now: float) -> float:
        """Until when the *name* is taken."""
        return self.restore(name, now + self.window)

    def restore(self, name: str, until: float) -> float:
        self._until.pop(name, None)
        self._until[name] = until
        return until

    def holds(self, name: str, now: float) -> bool:
        return self._until.get(name, now) > now

    def sweep(self, now: float) -> bool:
        """Forget the names that are free again; whether there were any."""
        free = []
        for name, until in self._until.items():
            if until > now:
                break
            free.append(name)
        for name in free:
            del self._until[name]
        return bool(free)
