"""The times at which jobs ran, in a file that any process appends to."""

from __future__ import annotations

import os
import struct
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_RECORD = struct.Struct("<q")
_LOOK_AGAIN = 0.0005


class Pen:
    """Notes the present moment; several processes may hold one on the same file."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self) -> None:
        os.write(self._file, _RECORD.pack(time.monotonic_ns()))


class Moments:
    """Reads what was noted since the last time."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._file = path.open("rb", buffering=0)

    def take(self, count: int, seconds: float = 60.0) -> list[float]:
        """The next so many moments, in order, once there are as many."""
        deadline = time.monotonic() + seconds
        noted = b""
        while len(noted) < count * _RECORD.size:
            more = self._file.read(count * _RECORD.size - len(noted))
            noted += more
            if not more:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{len(noted) // _RECORD.size} of {count} jobs ran in {seconds} s")
                time.sleep(_LOOK_AGAIN)
        return sorted(nanoseconds / 1e9 for (nanoseconds,) in _RECORD.iter_unpack(noted))

    def close(self) -> None:
        self._file.close()
