"""One job end to end, ours and peers': enqueued, an HTTP request with a trace, its outcome recorded; all durable."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any, Protocol

from bench import http_load, peer_parts
from bench.celery_peer import ON_DISK
from bench.figures import Sample, Table, middle, ratio, sample, undisturbed
from bench.processes import ROOT, NotReady, Server, free_port
from bench.relays import LIVE, Queue, RelayServer
from bench.sink import Sink
from bench.tasks_load import REST_BETWEEN, Tasks
from bench.trace_sink import TraceSink

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.figures import Cell, Scale
    from bench.progress import Progress

CLIENTS = 8
OURS = "traced-relay"
LIVES = [LIVE, *(f"{LIVE}-{number}" for number in range(1, 8))]  # each is limited to 500 tasks a second
LOOK_AGAIN, LOOK_AGAIN_ALL = 0.0005, 0.02  # as bench.call_producer
PATIENCE = 60.0
HEADINGS = (
    *("", "enqueued/s", "jobs/s", "of it", "one: p50 ms", "p99 ms", "times it"),
    *("CPU ms a job", "worker", "broker", "producer", "of it by CPU"),
)
NOTES = (
    "A job: enqueued by one of 8 producers, one HTTP request with its spans exported, its outcome durable (fsync).",
    f"it: {OURS}; jobs/s: from the first enqueue to the last outcome. One: a job alone, from enqueue to its outcome.",
    "CPU: of all processes. Ours: worker is the relay, which takes the POST too; broker the queue; producer raw HTTP.",
    "The peers' producers import the job's code and write to Redis: there is no HTTP API, no caller's token, no rules",
    "of who may call what, no rate limit of a queue, no record of each attempt in a log, no signed callback.",
    "Celery: 8 threads, acks late. Dramatiq: 8 threads; spans by hand, since OpenTelemetry does not instrument it.",
)


class System(Protocol):
    def many(self, jobs: int) -> tuple[float, float, float]:
        """Seconds of enqueuing, CPU seconds of the producers meanwhile, seconds until the last outcome."""

    def singles(self, jobs: int) -> list[float]: ...

    def cpu_seconds(self) -> tuple[float, float]:
        """Of workers and of the broker."""


class Ours:
    def __init__(self, running: ExitStack, directory: Path, sink: Sink) -> None:
        port, ledger = free_port(), directory / "calls.db"
        spans = running.enter_context(TraceSink(directory))
        self._queue = running.enter_context(Queue(directory, data="queue.db", worker_port=port))
        self._relay = running.enter_context(
            RelayServer(
                directory,
                ledger=f"sqlite:{ledger}",
                queue=self._queue,
                downstream=sink.url,
                port=port,
                queues=[name.rpartition("/")[2] for name in LIVES],
                OTEL_CONFIG_FILE=str(ROOT / "otel.yaml"),
                RELAY_TRACE_ENDPOINT=spans.address,
            )
        )
        for server in (spans, self._queue):
            server.wait()
        Tasks(self._queue.address, LIVES, sink).make_queues()
        self._relay.wait_ready()
        token = self._queue.token()
        calls = [{"url": f"{sink.url}/work", "queue": name.rpartition("/")[2], "body": {"report": 7}} for name in LIVES]
        self._posts = [
            http_load.request(
                "POST",
                "/v1/tasks",
                json.dumps(call).encode(),
                content_type="application/json",
                authorization=f"Bearer {token}",
            )
            for call in calls
        ]
        self._ledger = running.enter_context(closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)))

    def many(self, jobs: int) -> tuple[float, float, float]:
        ended, began, cpu = self._ended(), time.monotonic(), time.process_time()
        posts = (self._posts[number % len(self._posts)] for number in range(jobs))
        http_load.run(self._relay, CLIENTS, posts, status=202)
        enqueued, cpu = time.monotonic() - began, time.process_time() - cpu
        return enqueued, cpu, self._await(ended + jobs, LOOK_AGAIN_ALL) - began

    def singles(self, jobs: int) -> list[float]:
        found, ended = [], self._ended()
        with http_load.one_client(self._relay.port, 202) as client:
            for number, post in enumerate(repeat(self._posts[0], jobs), 1):
                began = time.monotonic()
                client.send(post)
                client.await_answer()
                found.append(self._await(ended + number, LOOK_AGAIN) - began)
                time.sleep(REST_BETWEEN)
        return found

    def cpu_seconds(self) -> tuple[float, float]:
        return self._relay.cpu_seconds(), self._queue.cpu_seconds()

    def _ended(self) -> int:
        found = self._ledger.execute("SELECT count(*) FROM tasks WHERE kind = 'call' AND state = 'succeeded'")
        return int(found.fetchone()[0])

    def _await(self, ended: int, again: float) -> float:
        deadline = time.monotonic() + PATIENCE
        while (found := self._ended()) < ended:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{ended - found} jobs did not end in {PATIENCE:.0f} s")
            time.sleep(again)
        return time.monotonic()


class Peer:
    """Redis with AOF synced on every write, one worker process and one producer process."""

    def __init__(self, running: ExitStack, directory: Path, sink: Sink, job: str, worker: Sequence[str]) -> None:
        redis, python, port = peer_parts.redis_server(), peer_parts.environment(), free_port()
        own = directory / job
        own.mkdir()
        spans = running.enter_context(Sink(own)).wait()
        environ = {
            "BENCH_BROKER": f"redis://127.0.0.1:{port}/0",
            "BENCH_URL": f"{sink.url}/work",
            "BENCH_SPANS": f"{spans.url}/v1/traces",
        }
        command = [redis, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(own), *ON_DISK]
        self._redis = running.enter_context(Server(command, port=port, directory=own)).wait()
        (own / "worker").mkdir()
        self._worker = running.enter_context(
            Server(
                [str(python), "-m", *worker],
                port=port,
                directory=own / "worker",
                environ=environ,
                ends_by=signal.SIGKILL,
            )
        )
        self._producer = running.enter_context(
            subprocess.Popen(
                [str(python), "-m", "bench.call_producer", f"bench.{job}"],
                cwd=ROOT,
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        running.callback(self._producer.kill)
        self.singles(1)  # the worker has started when it has done one

    def many(self, jobs: int) -> tuple[float, float, float]:
        enqueued, cpu, ended = self._tell(do="many", jobs=jobs)
        return enqueued, cpu, ended

    def singles(self, jobs: int) -> list[float]:
        return self._tell(do="singles", jobs=jobs)

    def cpu_seconds(self) -> tuple[float, float]:
        return self._worker.cpu_seconds(), self._redis.cpu_seconds()

    def _tell(self, **asked: Any) -> list[float]:
        assert self._producer.stdin
        assert self._producer.stdout
        self._producer.stdin.write(json.dumps(asked) + "\n")
        self._producer.stdin.flush()
        line = self._producer.stdout.readline()
        if not line:
            raise NotReady("the producer has ended")
        found: list[float] = json.loads(line)
        return found


@dataclass(frozen=True)
class Measured:
    """One system in one round; CPU in milliseconds a job."""

    enqueued: float
    jobs: float
    alone: Sample
    worker: float
    broker: float
    producer: float

    @property
    def cpu(self) -> float:
        return self.worker + self.broker + self.producer


def measure(system: System, jobs: int, singles: int) -> Measured:
    before = system.cpu_seconds()
    enqueued, producer, ended = system.many(jobs)
    worker, broker = (now - then for now, then in zip(system.cpu_seconds(), before, strict=True))
    alone = sample(system.singles(singles))
    return Measured(jobs / enqueued, jobs / ended, alone, *(part * 1000 / jobs for part in (worker, broker, producer)))


def run(scale: Scale, progress: Progress, directory: Path) -> list[Table]:
    with ExitStack() as running:
        sink = running.enter_context(Sink(directory)).wait()
        systems: dict[str, System] = {OURS: Ours(running, directory, sink)}
        celery = ("celery", "-A", "bench.call_celery", "worker", "--pool=threads", "--concurrency=8")
        quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=WARNING")
        dramatiq = ("dramatiq", "bench.call_dramatiq", "--processes=1", "--threads=8")
        skipped = []
        for name, job, worker in (
            ("Celery", "call_celery", (*celery, *quiet)),
            ("Dramatiq", "call_dramatiq", dramatiq),
        ):
            progress.say(f"starting {name}")
            try:
                systems[name] = Peer(running, directory, sink, job, worker)
            except (peer_parts.Missing, NotReady) as exc:
                skipped.append(f"skipped {name}: {exc}")
        found: dict[str, list[Measured]] = {name: [] for name in systems}
        failures: dict[str, str] = {}
        for number in range(-1, scale.few_rounds):  # the first warms everything up
            jobs, singles = (scale.tasks // 4, scale.singles) if number >= 0 else (scale.tasks // 16, 5)
            for name in systems if number % 2 else reversed(systems):
                progress.say(f"round {number + 1} of {scale.few_rounds}: {name}")
                try:
                    with undisturbed():
                        measured = measure(systems[name], jobs, singles)
                except (http_load.BadAnswer, NotReady, OSError) as exc:
                    failures[name] = f"{name}: {type(exc).__name__}: {exc}"[:200]
                else:
                    found[name] += [measured] if number >= 0 else []
    return [_table(found, (*NOTES, *skipped), tuple(failures.values()))]


def _table(found: dict[str, list[Measured]], notes: tuple[str, ...], failures: tuple[str, ...]) -> Table:
    whole = {name: rounds for name, rounds in found.items() if len(rounds) == len(found[OURS])}
    floor = found[OURS]
    rows: list[tuple[Cell, ...]] = [
        (
            name,
            middle(one.enqueued for one in rounds),
            middle(one.jobs for one in rounds),
            ratio([one.jobs for one in rounds], [one.jobs for one in floor]),
            middle(one.alone.p50 for one in rounds),
            middle(one.alone.p99 for one in rounds),
            ratio([one.alone.p50 for one in rounds], [one.alone.p50 for one in floor]),
            *(middle(getattr(one, part) for one in rounds) for part in ("cpu", "worker", "broker", "producer")),
            ratio([one.cpu for one in floor], [one.cpu for one in rounds]),
        )
        for name, rounds in whole.items()
    ]
    return Table("calls: from enqueue to the recorded outcome of an HTTP request", HEADINGS, rows, notes, failures)
