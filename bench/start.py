"""What a start costs: imports, the first response of an instance, and the memory of an idle one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from typing import TYPE_CHECKING

from bench.bare_flask import BareFlask
from bench.figures import Sample, Table, Variant, alternate, failures_of, measured, middle
from bench.footprint import memory
from bench.processes import READY_SECONDS, ROOT, NotReady, free_port
from bench.relays import HELD, LIVE, Queue, RelayServer
from bench.tasks_load import Queues

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from bench.figures import Scale
    from bench.processes import Server
    from bench.progress import Progress

PYTHON, FLASK, RELAY = "Python alone", "bare Flask", "relay"
IMPORTS = {
    PYTHON: "pass",
    FLASK: "import gunicorn.app.base, flask, requests, google.cloud.tasks_v2",
    RELAY: "import traced_relay.server.production",
}
COMPILED, OURS, NOTHING = "all compiled", "own files not compiled", "nothing compiled"
LOOK_AGAIN, REST = 0.002, 1.0
NOTES = (
    f"{FLASK}: gunicorn, Flask, requests, google.cloud.tasks_v2 and one route. Start: from exec to the first 200 of",
    "/_ah/start, every process with a new ledger; memory: of all its processes, what they share counted once (Pss).",
    f"{NOTHING}: neither the standard library's files nor packages'; App Engine's build compiles the packages.",
)


def run(scale: Scale, progress: Progress, directory: Path) -> list[Table]:
    with ExitStack() as running:
        queue = running.enter_context(Queue(directory)).wait()
        Queues(queue.address, [HELD, LIVE]).make_queues()
        own = _source(directory)
        makers: dict[str, Callable[[Mapping[str, str]], Server]] = {
            FLASK: lambda environ: BareFlask(f"starts('{queue.address}')", directory, environ),
            RELAY: lambda environ: _relay(directory, queue, environ),
        }
        of_imports = [Variant(name, 1, _importing(code)) for name, code in IMPORTS.items()]
        idle: dict[str, list[float]] = {}
        of_starts = [
            Variant(
                f"{server}, {how}", 1, _starting(make, how, own, directory, idle.setdefault(f"{server}, {how}", []))
            )
            for how in (COMPILED, OURS, NOTHING)
            for server, make in makers.items()
            if server == RELAY or how == COMPILED
        ]
        imports = alternate(of_imports, rounds=scale.rounds, seconds=scale.seconds, progress=progress)
        starts: list[list[Sample]] = [[] for _ in of_starts]
        for _ in range(scale.few_rounds - 1):
            for variant, found in zip(of_starts, starts, strict=True):
                progress.say(f"starting {variant.name}")
                found.append(measured(variant, scale.seconds))
    return [
        Table(
            "start: importing",
            ("", "CPU ms", "ms"),
            [
                (v.name, middle(s.cpu_ms for s in found), middle(s.p50 for s in found))
                for v, found in zip(of_imports, imports, strict=True)
            ],
            failures=failures_of(of_imports, imports),
        ),
        Table(
            "start: from exec to the first response, and at rest",
            ("", "start ms", "CPU ms", "idle MB"),
            [
                (v.name, middle(s.p50 for s in found), middle(s.cpu_ms for s in found), middle(idle[v.name]))
                for v, found in zip(of_starts, starts, strict=True)
            ],
            NOTES,
            failures_of(of_starts, starts),
        ),
    ]


def _source(directory: Path) -> Path:
    """A copy of src without compiled files, as `gcloud app deploy` uploads it."""
    copy = directory / "source"
    shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    return copy


def _relay(directory: Path, queue: Queue, environ: Mapping[str, str]) -> RelayServer:
    port = free_port()
    ledger = f"sqlite:{directory / f'{port}.db'}"
    return RelayServer(directory, ledger=ledger, queue=queue, downstream="http://127.0.0.1:9", port=port, **environ)  # type: ignore[arg-type]


def _importing(code: str) -> Callable[[float], Sample]:
    def measure(_: float) -> Sample:
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise NotReady(f"{code}: exit status {process.returncode}")
        return Sample(p50=(time.perf_counter() - began) * 1000, cpu_ms=(used.ru_utime + used.ru_stime) * 1000)

    return measure


def _starting(
    make: Callable[[Mapping[str, str]], Server], how: str, source: Path, directory: Path, idle: list[float]
) -> Callable[[float], Sample]:
    def measure(_: float) -> Sample:
        environ = {"PYTHONDONTWRITEBYTECODE": "1"} if how == OURS else {}
        if how == OURS:
            environ["PYTHONPATH"] = str(source)
        if how == NOTHING:
            environ["PYTHONPYCACHEPREFIX"] = tempfile.mkdtemp(dir=directory)
        began = time.perf_counter()
        with make(environ) as server:
            _await_start(server)
            took, cpu = time.perf_counter() - began, server.cpu_seconds()
            time.sleep(REST)
            idle.append(memory(server.process.pid) / 1024)
        return Sample(p50=took * 1000, cpu_ms=cpu * 1000)

    return measure


def _await_start(server: Server) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/_ah/start", timeout=READY_SECONDS).close()
        except (urllib.error.URLError, OSError):
            time.sleep(LOOK_AGAIN)
        else:
            return
    raise NotReady(f"no response to /_ah/start in {READY_SECONDS:.0f} s")
