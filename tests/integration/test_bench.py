"""The benches run to their end and give figures. How large these are depends on the machine and is nobody's promise."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

from support.house import ROOT

pytestmark = [pytest.mark.soak, pytest.mark.timeout(240)]

TABLES = {
    "enqueue": 2,
    "queue": 5,
    "dispatch": 4,
    "lists": 1,
    "many": 1,
    "telemetry": 3,
    "start": 2,
    "console": 2,
    "peers": 1,
    "calls": 1,
}


def test_every_bench_gives_figures_in_every_line() -> None:
    command = [sys.executable, "-m", "bench", "--quick", "--json"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=220, check=False)
    assert ran.returncode == 0, ran.stderr
    benches = json.loads(ran.stdout)["benches"]
    assert {name: len(tables) for name, tables in benches.items()} == TABLES
    for tables in benches.values():
        for table in tables:
            for name, *cells in table["rows"]:
                figures = [cell for cell in cells if cell is not None]
                assert figures, name
                assert all(math.isfinite(figure) and figure > 0 for figure in figures), (table["title"], name, cells)


def test_a_bench_that_is_not_there_is_one_clear_line() -> None:
    command = [sys.executable, "-m", "bench", "enqueues"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-1].endswith(
        "there is no bench enqueues; there are"
        " enqueue, queue, dispatch, lists, many, telemetry, start, console, peers, calls"
    )
