"""Other systems with the same no-op job, in the same rounds as the embedded queue."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from bench import peer_parts
from bench.celery_peer import EIGHT_THREADS, IN_MEMORY, ON_DISK, Celery
from bench.embedded_queue import QUEUES, servers
from bench.figures import Sample, Scale, Table, middle, ratio, undisturbed
from bench.processes import NotReady, Server, free_port
from bench.tasks_load import THREADS, NoQueue, Tasks, queue_names

if TYPE_CHECKING:
    from pathlib import Path

    from bench.figures import Cell
    from bench.progress import Progress
    from bench.sink import Sink
    from bench.tasks_load import Worked

HOPS = "no queue"


class System(Protocol):
    def work_off(self, tasks: int) -> Worked: ...

    def flow(self, tasks: int) -> float: ...

    def singles(self, tasks: int, seconds: float) -> Sample: ...


@dataclass
class Found:
    """What one system did, one value a round."""

    enqueued: list[float | None] = field(default_factory=list)
    worked_off: list[float | None] = field(default_factory=list)
    flowed: list[float | None] = field(default_factory=list)
    alone: list[Sample] = field(default_factory=list)


def run(scale: Scale, progress: Progress, directory: Path) -> list[Table]:
    with ExitStack() as running:
        ours = running.enter_context(servers(directory))
        systems: dict[str, System] = dict(ours.tasks(queue_names(QUEUES)))
        missing = []
        for name, part in (("gcloud-tasks-emulator", _emulator), ("Celery", _celery)):
            progress.say(f"starting {name}")
            try:
                systems |= part(running, directory, ours.sink)
            except (peer_parts.Missing, NotReady) as exc:
                missing.append(f"skipped {name}: {exc}")
        found = {name: Found() for name in (HOPS, *systems)}
        bare = Tasks(ours.echo.address, queue_names(1), ours.sink)
        hops = NoQueue(ours.echo.address, ours.sink)
        for number in range(scale.few_rounds):
            said = f"round {number + 1} of {scale.few_rounds}"
            progress.say(f"{said}: {HOPS}")
            with undisturbed():
                _measure_floor(bare, hops, found[HOPS], scale)
            for name in systems if number % 2 else reversed(systems):
                progress.say(f"{said}: {name}")
                with undisturbed():
                    _measure(systems[name], found[name], scale)
    return [_table(found, missing)]


def _emulator(running: ExitStack, directory: Path, sink: Sink) -> dict[str, System]:
    port = free_port()
    python = str(peer_parts.environment("emulator"))
    command = [python, "-m", "bench.emulator_main", "start", "--quiet", f"--port={port}"]
    running.enter_context(Server(command, port=port, directory=directory)).wait()
    tasks = Tasks(f"127.0.0.1:{port}", queue_names(QUEUES), sink)
    tasks.make_queues()
    return {"gcloud-tasks-emulator": tasks}


def _celery(running: ExitStack, directory: Path, _: Sink) -> dict[str, System]:
    redis, python = peer_parts.redis_server(), peer_parts.environment()
    forms = {
        "Celery, 8 threads": (IN_MEMORY, EIGHT_THREADS),
        "Celery, 8 threads, AOF always": (ON_DISK, EIGHT_THREADS),
    }
    made = {name: Celery(python, redis, directory, store, pool) for name, (store, pool) in forms.items()}
    for celery in made.values():
        running.enter_context(celery).start()
    for celery in made.values():
        celery.wait()
    return dict(made)


def _measure_floor(bare: Tasks, hops: NoQueue, found: Found, scale: Scale) -> None:
    found.enqueued.append(bare.create(THREADS, tasks=scale.tasks).per_second)
    found.worked_off.append(None)
    found.flowed.append(hops.flow(scale.tasks))
    found.alone.append(hops.singles(scale.singles, scale.seconds * 2.5))


def _measure(system: System, found: Found, scale: Scale) -> None:
    worked = system.work_off(scale.tasks)
    found.enqueued.append(worked.made.per_second)
    found.worked_off.append(worked.per_second)
    found.flowed.append(system.flow(scale.tasks))
    found.alone.append(system.singles(scale.singles, scale.seconds * 2.5))


def _table(found: dict[str, Found], missing: list[str]) -> Table:
    floor = found[HOPS]
    times = [sample.p50 for sample in floor.alone]
    rows: list[tuple[Cell, ...]] = [
        (
            name,
            middle(of.enqueued),
            ratio(of.enqueued, floor.enqueued),
            middle(of.worked_off),
            middle(of.flowed),
            ratio(of.flowed, floor.flowed),
            middle(sample.p50 for sample in of.alone),
            middle(sample.p99 for sample in of.alone),
            ratio([sample.p50 for sample in of.alone], times),
        )
        for name, of in found.items()
    ]
    headings = ("", "enqueued/s", "of it", "made before/s", "meanwhile/s", "of it", "one: p50 ms", "p99 ms", "times it")
    notes = (
        f"it: {HOPS}, the same gRPC call and HTTP request without a queue; enqueued: the gRPC call alone.",
        "Celery makes no HTTP request for a job, and no gRPC call; in memory unless AOF (every write synced).",
        *missing,
    )
    return Table("peers: a no-op job, enqueued and handled", headings, rows, notes)
