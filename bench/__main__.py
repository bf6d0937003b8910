"""`python -m bench [names] [--quick]`: prints every figure as a ratio to a baseline of the same run."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bench import calls, console, dispatch, embedded_queue, enqueue, lists, many_calls, peers, report, start, telemetry
from bench.figures import FULL, QUICK, Table
from bench.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.figures import Scale

BENCHES: dict[str, Callable[[Scale, Progress, Path], list[Table]]] = {
    "enqueue": enqueue.run,
    "queue": embedded_queue.run,
    "dispatch": dispatch.run,
    "lists": lists.run,
    "many": many_calls.run,
    "telemetry": telemetry.run,
    "start": start.run,
    "console": console.run,
    "peers": peers.run,
    "calls": calls.run,
}
LONGEST, LONGEST_QUICK = 900, 180  # seconds; something hangs if even this is not enough


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"some of: {', '.join(BENCHES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="a look at everything in less than two minutes")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args()
    if unknown := sorted(set(given.names) - BENCHES.keys()):
        parser.error(f"there is no bench {unknown[0]}; there are {', '.join(BENCHES)}")
    for number in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(number, _end)
    signal.alarm(LONGEST_QUICK if given.quick else LONGEST)
    facts = report.machine()
    tables: dict[str, list[Table]] = {}
    if not given.json:
        print(*(f"{name} {value}" for name, value in facts.items()), sep=", ", flush=True)
    for name in given.names or BENCHES:
        tables[name] = _run(name, QUICK if given.quick else FULL)
        if not given.json:
            print(*("\n" + report.text_of(table) for table in tables[name]), sep="\n", flush=True)
    if given.json:
        documents = {name: [dataclasses.asdict(table) for table in found] for name, found in tables.items()}
        json.dump({"machine": facts, "benches": documents}, sys.stdout, indent=1)
    sys.exit(any(table.failures for found in tables.values() for table in found))


def _run(name: str, scale: Scale) -> list[Table]:
    progress = Progress()
    progress.begin(name)
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        try:
            return BENCHES[name](scale, progress, Path(directory))
        except Exception as exc:  # noqa: BLE001  whatever it is, the other benches run
            return [Table(name, ("",), [], failures=(f"{type(exc).__name__}: {exc}"[:400],))]
        finally:
            progress.clear()


def _end(number: int, _: object) -> None:
    """Exit through every cleanup."""
    sys.exit("the benches took too long" if number == signal.SIGALRM else "told to end")


if __name__ == "__main__":
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    main()
