"""The embedded queue alone: creating tasks, keeping its rate limit, its maximum rate, and the latency of one task."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.bare_grpc import BareGrpc
from bench.figures import Sample, Scale, Table, Variant, alternate, compared, compared_latencies, undisturbed
from bench.relays import Queue
from bench.sink import Sink
from bench.tasks_load import THREADS, NoQueue, Tasks, queue_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bench.progress import Progress

QUEUES = 16  # enough of them that their limits, and their first bursts, are not what is measured
LIMIT = 500
BURST = 100
FLOOR = "bare gRPC"
HOPS = "no queue"
MEMORY, DURABLE = "queue, memory", "queue, durable"


@dataclass(frozen=True)
class Running:
    """The embedded queue in both forms, and its baselines."""

    sink: Sink
    echo: BareGrpc
    queues: dict[str, Queue]

    def tasks(self, names: list[str]) -> dict[str, Tasks]:
        found = {form: Tasks(queue.address, names, self.sink) for form, queue in self.queues.items()}
        for tasks in found.values():
            tasks.make_queues()
        return found


@contextmanager
def servers(directory: Path) -> Iterator[Running]:
    with ExitStack() as running:
        sink = running.enter_context(Sink(directory))
        echo = running.enter_context(BareGrpc(directory))
        queues = {
            MEMORY: running.enter_context(Queue(directory)),
            DURABLE: running.enter_context(Queue(directory, data="queue.db")),
        }
        for server in (sink, echo, *queues.values()):
            server.wait()
        yield Running(sink, echo, queues)


def run(scale: Scale, progress: Progress, directory: Path) -> list[Table]:
    with servers(directory) as running:
        several = running.tasks(queue_names(QUEUES))
        hops = NoQueue(running.echo.address, running.sink)
        return [
            _create(running, several, scale, progress),
            _hold(running, scale, progress),
            _ceiling(hops, several, scale, progress),
            _single(hops, several, scale, progress),
        ]


def _create(running: Running, several: dict[str, Tasks], scale: Scale, progress: Progress) -> Table:
    bare = Tasks(running.echo.address, queue_names(1), running.sink)
    for tasks in several.values():
        tasks.pause()

    def creating(tasks: Tasks, clients: int) -> Callable[[float], Sample]:
        def measure(seconds: float) -> Sample:
            found = tasks.create(clients, seconds=seconds)
            if tasks is not bare:
                tasks.purge()
            return found

        return measure

    served = {FLOOR: bare, **several}
    variants = [Variant(name, n, creating(tasks, n)) for n in (1, THREADS) for name, tasks in served.items()]
    samples = alternate(variants, rounds=scale.rounds, seconds=scale.seconds, progress=progress)
    for tasks in several.values():
        tasks.resume()
    notes = ("Google's client in one process, with so many threads; the queues pause.",)
    return compared("queue: create_task", variants, samples, (FLOOR,), notes)


def _hold(running: Running, scale: Scale, progress: Progress) -> Table:
    """One queue with a rate limit and enough tasks."""
    progress.say(f"one queue, {LIMIT} a second, for {scale.hold} s")
    tasks = Tasks(running.queues[DURABLE].address, [f"{queue_names(1)[0]}-held"], running.sink)
    tasks.make_queues()
    with undisturbed():
        moments = tasks.work_off(LIMIT * (scale.hold + 1) + BURST).moments
    begin = moments[0] + 0.5  # the burst is over
    counts = [sum(begin + at <= moment < begin + at + 1 for moment in moments) for at in range(scale.hold)]
    mean = sum(counts) / len(counts)
    row = (DURABLE, len(counts), mean, float(min(counts)), float(max(counts)), mean / LIMIT)
    headings = ("", "seconds", "per second", "slowest second", "fastest second", f"of {LIMIT}")
    return Table(f"queue: one queue limited to {LIMIT} dispatches a second", headings, [row])


def _ceiling(hops: NoQueue, several: dict[str, Tasks], scale: Scale, progress: Progress) -> Table:
    def working(tasks: Tasks) -> Callable[[float], Sample]:
        return lambda seconds: Sample(tasks.work_off(_share(scale, seconds)).per_second)

    def flowing(tasks: Tasks) -> Callable[[float], Sample]:
        return lambda seconds: Sample(tasks.flow(_share(scale, seconds)))

    variants = [Variant(f"{HOPS}, at once", THREADS, flowing(hops))]
    for name, tasks in several.items():
        variants += [
            Variant(f"{name}, made before", THREADS, working(tasks)),
            Variant(f"{name}, made meanwhile", THREADS, flowing(tasks)),
        ]
    samples = alternate(variants, rounds=scale.few_rounds, seconds=scale.seconds, progress=progress)
    notes = (
        f"{QUEUES} queues of {LIMIT} a second each; {HOPS}: the same gRPC call and HTTP request, one after the other.",
    )
    title = "queue: from create to handler, as many as it can"
    return compared(title, variants, samples, (f"{HOPS}, at once",), notes)


def _share(scale: Scale, seconds: float) -> int:
    """A whole round's tasks, or the part that a warming round takes of it."""
    return max(THREADS, int(scale.tasks * min(1.0, seconds / scale.seconds)) // THREADS * THREADS)


def _single(hops: NoQueue, several: dict[str, Tasks], scale: Scale, progress: Progress) -> Table:
    def alone(tasks: Tasks) -> Callable[[float], Sample]:
        return lambda seconds: tasks.singles(scale.singles, seconds * 2.5)

    variants = [Variant(name, 1, alone(tasks)) for name, tasks in {HOPS: hops, **several}.items()]
    samples = alternate(variants, rounds=scale.few_rounds, seconds=scale.seconds, progress=progress)
    return compared_latencies("queue: one task at a time, from create to handler", variants, samples, HOPS)
