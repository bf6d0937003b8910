"""What telemetry costs a dispatch, and that a backend which is away does not add to it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from bench import http_load
from bench.dispatch import PRELOADED_PER_SECOND, preload
from bench.figures import Sample, Scale, Table, Variant, alternate, compared
from bench.processes import ROOT, free_port, module
from bench.relays import HELD, Queue, RelayServer
from bench.sink import Sink
from bench.tasks_load import Tasks
from bench.trace_sink import HANGS, REFUSES, TAKES, TraceSink

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from bench.progress import Progress

CLIENTS = 8
OFF, RECORDS, TRACING, BOTH = "off", "records", "tracing", "tracing and records"
HEALTHY, DEAD, HUNG, REFUSING = "healthy", "dead", "hung", "refusing"
_SILENT = module("bench.silent_relay")


def run(scale: Scale, progress: Progress, directory: Path) -> list[Table]:
    with ExitStack() as running:
        sink = running.enter_context(Sink(directory))
        queue = running.enter_context(Queue(directory))
        traces = {how: running.enter_context(TraceSink(directory, how)) for how in (TAKES, REFUSES, HANGS)}
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
            OFF: relay(None, silent=True),
            RECORDS: relay(None),
            TRACING: relay(takes, silent=True),
            BOTH: both,
        }
        backends = {
            HEALTHY: both,
            DEAD: relay(f"127.0.0.1:{free_port()}"),
            HUNG: relay(traces[HANGS].address),
            REFUSING: relay(traces[REFUSES].address),
        }
        for server in {**costs, **backends}.values():
            server.wait_ready()
        token = queue.token()

        def dispatched(server: RelayServer) -> Callable[[float], Sample]:
            def measure(seconds: float) -> Sample:
                dispatches = preload(server, sink.url, token, int(PRELOADED_PER_SECOND * seconds))
                found = http_load.run(server.port, CLIENTS, dispatches, status=200)
                held.purge()
                return found

            return measure

        def table(title: str, relays: Mapping[str, RelayServer], floor: str, note: str) -> Table:
            variants = [Variant(name, CLIENTS, dispatched(server)) for name, server in relays.items()]
            samples = alternate(variants, rounds=scale.few_rounds, seconds=scale.seconds, progress=progress)
            return compared(title, variants, samples, (floor,), (note,))

        return [
            table("telemetry: what it costs a dispatch", costs, OFF, "Spans go to a Cloud Trace API of this machine."),
            table("telemetry: a backend that is away", backends, HEALTHY, "Tracing and records in all of them."),
        ]
