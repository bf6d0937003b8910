"""Memory and CPU time of a process and its children, from Linux."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

_SCHEDULED = 2  # the clock of another process that counts what its threads ran (CPUCLOCK_SCHED)
_PSS = re.compile(r"^Pss: +(\d+) kB", re.MULTILINE)


def memory(pid: int) -> int:
    """KiB resident; what processes share is counted once."""
    return sum(int(_PSS.findall(Path(f"/proc/{one}/smaps_rollup").read_text())[0]) for one in _family(pid))


def cpu_seconds(pid: int) -> float:
    """CPU time of its threads so far, of those that have ended too."""
    return sum(time.clock_gettime(~one << 3 | _SCHEDULED) for one in _family(pid))


def set_cores(pid: int, cores: Collection[int]) -> None:
    """Let all its threads, and those that they start from now on, run on these *cores* alone."""
    for one in _family(pid):
        for thread in Path(f"/proc/{one}/task").iterdir():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), cores)


def open_files(pid: int) -> int:
    """Of the one with most."""
    return max(sum(1 for _ in Path(f"/proc/{one}/fd").iterdir()) for one in _family(pid))


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(member for child in children for member in _family(int(child)))]
