"""Memory and CPU time of a process and its children, from Linux."""

from __future__ import annotations

import re
from pathlib import Path

_PSS = re.compile(r"^Pss: +(\d+) kB", re.MULTILINE)


def memory(pid: int) -> int:
    """KiB resident; what processes share is counted once."""
    return sum(int(_PSS.findall(Path(f"/proc/{one}/smaps_rollup").read_text())[0]) for one in _family(pid))


def cpu_seconds(pid: int) -> float:
    """CPU time of its live threads so far."""
    threads = [thread for one in _family(pid) for thread in Path(f"/proc/{one}/task").iterdir()]
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def open_files(pid: int) -> int:
    """Of the one with most."""
    return max(sum(1 for _ in Path(f"/proc/{one}/fd").iterdir()) for one in _family(pid))


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(member for child in children for member in _family(int(child)))]
