"""Load through Google's Cloud Tasks client: several threads create tasks for any server of the queues."""

from __future__ import annotations

import http.client
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from threading import local
from typing import TYPE_CHECKING

import grpc
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from bench.figures import Sample, sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.sink import Sink

LOCATION = "projects/bench/locations/us-central1"
THREADS = 8
PATIENCE = 20.0
REST_BETWEEN = 0.004  # seconds between two single tasks, so that everything is idle again


def client_of(address: str) -> tasks_v2.CloudTasksClient:
    channel = grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)])
    return tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))


def queue_names(count: int) -> list[str]:
    return [f"{LOCATION}/queues/bench-{number}" for number in range(count)]


@dataclass(frozen=True)
class Worked:
    """So many tasks made while the queues paused, and when each of them was handled once they ran."""

    made: Sample
    moments: list[float]

    @property
    def per_second(self) -> float:
        return (len(self.moments) - 1) / (self.moments[-1] - self.moments[0])


class Queues:
    """One server's queues, made and stopped."""

    def __init__(self, address: str, queues: Sequence[str]) -> None:
        self._queues = queues
        self._client = client_of(address)

    def make_queues(self) -> None:
        limits = tasks_v2.RateLimits(max_dispatches_per_second=500, max_concurrent_dispatches=1000)
        for name in self._queues:
            queue = tasks_v2.Queue(name=name, rate_limits=limits)
            self._client.create_queue(parent=LOCATION, queue=queue, timeout=PATIENCE)

    def pause(self) -> None:
        for name in self._queues:
            self._client.pause_queue(name=name, timeout=PATIENCE)

    def resume(self) -> None:
        for name in self._queues:
            self._client.resume_queue(name=name, timeout=PATIENCE)

    def purge(self) -> None:
        for name in self._queues:
            self._client.purge_queue(name=name, timeout=PATIENCE)


class Tasks(Queues):
    """Tasks in one server's queues that go to the *sink*."""

    def __init__(self, address: str, queues: Sequence[str], sink: Sink) -> None:
        super().__init__(address, queues)
        self._sink = sink
        target = {"url": f"{sink.url}/work", "http_method": "POST", "body": b'{"report": 7}'}
        self._task = tasks_v2.Task({"http_request": target})

    def create(self, threads: int, *, seconds: float = 60.0, tasks: int | None = None) -> Sample:
        """Make tasks from so many threads until there are enough or the time is over."""
        each = None if tasks is None else tasks // threads
        started = time.perf_counter()
        deadline = started + seconds
        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(lambda number: list(islice(self._creating(number, deadline), each)), range(threads)))
        took = time.perf_counter() - started
        return sample([latency for part in found for latency in part], seconds=took)

    def _creating(self, number: int, deadline: float) -> Iterator[float]:
        while (sent := time.perf_counter()) < deadline:
            self.create_one(number)
            number += 1
            yield time.perf_counter() - sent

    def create_one(self, number: int = 0) -> None:
        """Make a task in one of the queues, which take turns."""
        queue = self._queues[number % len(self._queues)]
        self._client.create_task(parent=queue, task=self._task, retry=None, timeout=PATIENCE)

    def work_off(self, tasks: int) -> Worked:
        self.pause()
        made = self.create(THREADS, tasks=tasks)
        self._sink.ask(tasks)
        self.resume()
        return Worked(made, self._sink.moments())

    def flow(self, tasks: int) -> float:
        """Tasks a second from the first create to the last arrival, with the queues at work all the time."""
        self._sink.ask(tasks)
        started = time.monotonic()
        self.create(THREADS, tasks=tasks)
        return tasks / (self._sink.moments()[-1] - started)

    def singles(self, tasks: int, seconds: float) -> Sample:
        """From create to handler, one task at a time."""
        latencies: list[float] = []
        deadline = time.monotonic() + seconds
        while len(latencies) < tasks and time.monotonic() < deadline:
            self._sink.ask(1)
            started = time.monotonic()
            self.create_one()
            latencies.append(self._sink.moments()[0] - started)
            time.sleep(REST_BETWEEN)
        return sample(latencies)


class NoQueue(Tasks):
    """The same two hops, a gRPC call and an HTTP request, without a queue between them: nobody can be faster."""

    def __init__(self, address: str, sink: Sink) -> None:
        super().__init__(address, queue_names(1), sink)
        self._port = sink.port
        self._mine = local()

    def create_one(self, number: int = 0) -> None:
        super().create_one(number)
        if not hasattr(self._mine, "connection"):
            self._mine.connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        self._mine.connection.request("POST", "/work", b'{"report": 7}')
        self._mine.connection.getresponse().read()
