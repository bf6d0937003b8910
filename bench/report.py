"""Tables of figures, and the facts about the machine on which they depend."""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.figures import Cell, Table

_PACKAGES = ("grpcio", "google-cloud-tasks", "flask", "gunicorn", "requests", "opentelemetry-sdk")


def machine() -> dict[str, str]:
    load = " ".join(f"{part:.2f}" for part in os.getloadavg())
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "machine": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "load before": load,
        "write and fsync": f"{_fsync_ms():.2f} ms",
        **{name: version(name) for name in _PACKAGES},
    }


def _fsync_ms() -> float:
    """What one durable write costs where the durable variants keep their files."""
    took = []
    with tempfile.TemporaryDirectory() as directory, Path(directory, "probe").open("wb", buffering=0) as file:
        for _ in range(50):
            started = time.perf_counter()
            file.write(b"x" * 512)
            os.fsync(file.fileno())
            took.append(time.perf_counter() - started)
    return statistics.median(took) * 1000


def text_of(table: Table) -> str:
    cells = [table.headings, *(tuple(_text(cell) for cell in row) for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [table.title, "-" * len(table.title), *(_line(row, widths) for row in cells)]
    return "\n".join(
        [*lines, *(f"  {note}" for note in table.notes), *(f"  not measured: {why}" for why in table.failures)]
    )


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    first, *others = (
        cell.rjust(width) if place else cell.ljust(width)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "   ".join([first, *others]).rstrip()


def _text(cell: Cell) -> str:
    if cell is None:
        return "-"
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:,.0f}" if cell >= 100 else f"{cell:.{2 if cell >= 0.1 else 3}f}"
