"""
The embedded queue alone: creating tasks, its rate limit, its maximum rate, the latency of one task, a hostile client.

`python -m bench.embedded_queue ADDRESS METHOD QUEUE` is that client: it calls METHOD in a loop.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import grpc
from google.cloud import tasks_v2

from bench.bare_grpc import BareGrpc
from bench.figures import (
    Cell,
    Sample,
    Scale,
    Table,
    Variant,
    alternate,
    compared,
    compared_latencies,
    failures_of,
    middle,
    ratio,
    undisturbed,
)
from bench.processes import ROOT, module
from bench.relays import Queue
from bench.sink import Sink
from bench.tasks_load import LOCATION, THREADS, NoQueue, Tasks, queue_names

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
LARGE = f"{LOCATION}/queues/large"
HOSTILE = {"lists": "ListTasks", "purges": "PurgeQueue"}


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
            _beside_hostile(running, several[DURABLE], scale, progress),
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


def _beside_hostile(running: Running, tasks: Tasks, scale: Scale, progress: Progress) -> Table:
    """The durable queues alone, and while another client lists or purges one with many tasks in a loop."""
    address, size = running.queues[DURABLE].address, scale.rows[0]
    made: dict[str, list[Sample]] = {"alone": [], **{name: [] for name in HOSTILE}}
    for method in HOSTILE.values():
        large = Tasks(address, [f"{LARGE}-{method}"], running.sink)
        large.make_queues()
        large.pause()
    progress.say(f"fill a queue with {size} tasks")
    _fill(address, f"{LARGE}-{HOSTILE['lists']}", size)

    def work(name: str, seconds: float) -> Sample:
        worked = tasks.work_off(_share(scale, seconds))
        made[name].append(worked.made)
        return Sample(worked.per_second)

    def beside(name: str, seconds: float) -> Sample:
        queue = f"{LARGE}-{HOSTILE[name]}"
        if name == "purges":
            _fill(address, queue, size if seconds >= scale.seconds else THREADS)
        with _hostile(address, HOSTILE[name], queue):
            return work(name, seconds)

    variants = [Variant("alone", THREADS, partial(work, "alone"))]
    variants += [Variant(name, THREADS, partial(beside, name)) for name in HOSTILE]
    worked = alternate(variants, rounds=scale.few_rounds, seconds=scale.seconds, progress=progress)
    rows: list[tuple[Cell, ...]] = []
    for variant, found in zip(variants, worked, strict=True):
        created, alone = made[variant.name][1:], made["alone"][1:]  # the first is the warming round's
        rows.append(
            (
                variant.name if variant.name == "alone" else f"beside {variant.name}",
                middle(s.per_second for s in created),
                middle(s.p99 for s in created),
                ratio((s.per_second for s in created), (s.per_second for s in alone)),
                middle(s.per_second for s in found),
                ratio((s.per_second for s in found), (s.per_second for s in worked[0])),
            )
        )
    notes = (f"{DURABLE}; beside: one client calls the method in a loop for a paused queue of {size:,} tasks.",)
    headings = ("", "created per second", "p99 ms", "of alone", "worked off per second", "of alone")
    return Table("queue: beside a hostile client", headings, rows, notes, failures_of(variants, worked))


def _method(channel: grpc.Channel, name: str) -> Callable[[bytes], object]:
    """The method as Google's client calls it, but with bytes, which cost this process least."""
    called: Callable[[bytes], object] = channel.unary_unary(f"/google.cloud.tasks.v2.CloudTasks/{name}", bytes, bytes)
    return called


def _fill(address: str, queue: str, count: int) -> None:
    """Create so many tasks."""
    task = tasks_v2.Task({"http_request": {"url": "http://127.0.0.1:9/work", "body": b"{}"}})
    request = tasks_v2.CreateTaskRequest.serialize(tasks_v2.CreateTaskRequest(parent=queue, task=task))
    with grpc.insecure_channel(address) as channel, ThreadPoolExecutor(2 * THREADS) as pool:
        create = _method(channel, "CreateTask")
        for _ in pool.map(create, [request] * count):
            pass


@contextmanager
def _hostile(address: str, method: str, queue: str) -> Iterator[None]:
    command = module("bench.embedded_queue", address, method, queue)
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()  # its first call was answered
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _loop(address: str, method: str, queue: str) -> None:
    request = (
        tasks_v2.ListTasksRequest(parent=queue) if method == "ListTasks" else tasks_v2.PurgeQueueRequest(name=queue)
    )
    content = type(request).serialize(request)
    with grpc.insecure_channel(address) as channel:
        call = _method(channel, method)
        call(content)
        print(flush=True)
        while True:
            call(content)


if __name__ == "__main__":
    _loop(*sys.argv[1:])
