"""The cost of telemetry for a dispatch; an unreachable backend must add none, nor memory, nor shutdown time."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from bench import http_load
from bench.dispatch import PRELOADED_PER_SECOND, preload
from bench.figures import Sample, Scale, Table, Variant, alternate, compared
from bench.processes import ROOT, free_port, module
from bench.relays import HELD, Queue, RelayServer
from bench.sink import Sink
from bench.tasks_load import Tasks
from bench.trace_sink import DENIES, HANGS, REFUSES, TAKES, TraceSink

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from bench.figures import Cell
    from bench.progress import Progress

CLIENTS = 8
OFF, ON, NEITHER, TRACING = "off", "on", "off, no records", "on, no records"
HEALTHY, DEAD, HUNG, REFUSING, DENYING = "healthy", "dead", "hung", "UNAVAILABLE", "PERMISSION_DENIED"
COSTS_NOTE = "On: every span is exported, to a Cloud Trace API of this machine. Off: OTEL_SDK_DISABLED."
_SILENT = module("bench.silent_relay")


def run(scale: Scale, progress: Progress, directory: Path) -> list[Table]:
    with ExitStack() as running:
        sink = running.enter_context(Sink(directory))
        queue = running.enter_context(Queue(directory))
        traces = {how: running.enter_context(TraceSink(directory, how)) for how in (TAKES, REFUSES, DENIES, HANGS)}
        for server in (sink, queue, *traces.values()):
            server.wait()
        held = Tasks(queue.address, [HELD], sink)
        held.make_queues()
        held.pause()

        def relay(endpoint: str | None, *, silent: bool = False) -> RelayServer:
            off = {"OTEL_SDK_DISABLED": "true"}
            on = {"OTEL_CONFIG_FILE": str(ROOT / "otel.yaml"), "RELAY_TRACE_ENDPOINT": endpoint or ""}
            server = RelayServer(
                directory,
                ledger="memory",
                queue=queue,
                downstream=sink.url,
                port=free_port(),
                command=_SILENT if silent else None,
                **(off if endpoint is None else on),
            )
            return running.enter_context(server)

        takes = traces[TAKES].address
        both = relay(takes)
        costs = {
            OFF: relay(None),
            ON: both,
            NEITHER: relay(None, silent=True),
            TRACING: relay(takes, silent=True),
        }
        backends = {
            HEALTHY: both,
            DEAD: relay(f"127.0.0.1:{free_port()}"),
            HUNG: relay(traces[HANGS].address),
            REFUSING: relay(traces[REFUSES].address),
            DENYING: relay(traces[DENIES].address),
        }
        for server in {**costs, **backends}.values():
            server.wait_ready()
        token = queue.token()

        def dispatched(server: RelayServer) -> Callable[[float], Sample]:
            def measure(seconds: float) -> Sample:
                dispatches = preload(server, sink.url, token, int(PRELOADED_PER_SECOND * seconds))
                found = http_load.run(server, CLIENTS, dispatches, status=200)
                held.purge()
                return found

            return measure

        def table(title: str, relays: Mapping[str, RelayServer], floor: str, note: str) -> Table:
            variants = [Variant(name, CLIENTS, dispatched(server)) for name, server in relays.items()]
            samples = alternate(variants, rounds=scale.few_rounds, seconds=scale.seconds, progress=progress)
            return compared(title, variants, samples, (floor,), (note,), cpu_floor=floor)

        tables = [
            table("telemetry: what it costs a dispatch", costs, OFF, COSTS_NOTE),
            table("telemetry: a backend that is away", backends, HEALTHY, "Tracing and records in all of them."),
        ]
        return [*tables, _ends(backends, {name: _endpoint(name, traces) for name in backends}, scale, progress)]


def _endpoint(name: str, traces: Mapping[str, TraceSink]) -> str:
    how = {HEALTHY: TAKES, HUNG: HANGS, REFUSING: REFUSES, DENYING: DENIES}.get(name)
    return traces[how].address if how else f"127.0.0.1:{free_port()}"


def _ends(relays: Mapping[str, RelayServer], endpoints: Mapping[str, str], scale: Scale, progress: Progress) -> Table:
    """How long each relay takes to end, and what so many spans leave behind where nothing else happens."""
    rows: list[tuple[Cell, ...]] = []
    for name, server in relays.items():
        progress.say(f"the end, {name}")
        began = time.perf_counter()
        server.end()
        seconds = time.perf_counter() - began
        flood = [*module("bench.span_flood"), endpoints[name], str(scale.spans)]
        ran = subprocess.run(flood, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
        rows.append((name, seconds, *json.loads(ran.stdout)))
    headings = ("", "SIGTERM to exit s", "MB before", "MB after")
    notes = (f"Memory of a process that makes nothing but {scale.spans:,} spans, as fast as it can.",)
    return Table("telemetry: the end, and memory", headings, rows, notes)
