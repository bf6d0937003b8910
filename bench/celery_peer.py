"""Celery on Redis with the no-op job, measured like the embedded queue."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

from bench.figures import Sample, sample
from bench.moments import Moments
from bench.processes import READY_SECONDS, ROOT, NotReady, Server, free_port
from bench.tasks_load import REST_BETWEEN, Worked

if TYPE_CHECKING:
    from pathlib import Path

Options = tuple[str, ...]

IN_MEMORY = ("--save", "", "--appendonly", "no")
ON_DISK = ("--save", "", "--appendonly", "yes", "--appendfsync", "always")
EIGHT_THREADS = ("--pool=threads", "--concurrency=8")
_QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=WARNING")


class Celery:
    """Redis, one worker and one client, each a process; the client sends from one thread."""

    def __init__(self, python: Path, redis: str, directory: Path, store: Options, pool: Options) -> None:
        port = free_port()
        own = directory / f"celery-{port}"
        own.mkdir()
        environ = {"BENCH_BROKER": f"redis://127.0.0.1:{port}/0", "BENCH_MOMENTS": str(own / "moments")}
        self._moments = Moments(own / "moments")
        self._running = ExitStack()
        self._running.callback(self._moments.close)
        command = [redis, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(own), *store]
        self._redis = self._running.enter_context(Server(command, port=port, directory=own))
        self._worker_command = [str(python), "-m", "celery", "-A", "bench.celery_app", "worker", *pool, *_QUIET]
        self._client_command = [str(python), "-m", "bench.celery_client"]
        self._environ, self._own = environ, own
        self._serial = 0

    def start(self) -> None:
        self._redis.wait()
        worker = Server(
            self._worker_command,
            port=self._redis.port,  # it has none of its own
            directory=self._own,
            environ=self._environ,
            ends_by=signal.SIGKILL,  # it would take its time, and has nothing to lose
        )
        self._running.enter_context(worker)
        self._client = self._running.enter_context(
            subprocess.Popen(
                self._client_command,
                cwd=ROOT,
                env=self._environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        self._running.callback(self._client.kill)

    def wait(self) -> None:
        """Wait until the worker responds."""
        deadline = time.monotonic() + READY_SECONDS
        while not self._tell("work_on", queue=self._queue)["answers"]:
            if time.monotonic() > deadline:
                raise NotReady("Celery's worker does not answer")

    def work_off(self, tasks: int) -> Worked:
        self._tell("leave", queue=self._queue)
        self._serial += 1
        sent = self._tell("send", queue=self._queue, jobs=tasks)
        self._tell("work_on", queue=self._queue)
        return Worked(Sample(tasks / sent["took"]), self._moments.take(tasks))

    def flow(self, tasks: int) -> float:
        sent = self._tell("send", queue=self._queue, jobs=tasks)
        return float(tasks / (self._moments.take(tasks)[-1] - sent["started"]))

    def singles(self, tasks: int, seconds: float) -> Sample:
        latencies: list[float] = []
        deadline = time.monotonic() + seconds
        while len(latencies) < tasks and time.monotonic() < deadline:
            sent = self._tell("send", queue=self._queue, jobs=1)
            latencies.append(self._moments.take(1)[0] - sent["started"])
            time.sleep(REST_BETWEEN)
        return sample(latencies)

    @property
    def _queue(self) -> str:
        return f"bench-{self._serial}"

    def _tell(self, verb: str, **arguments: Any) -> dict[str, Any]:
        assert self._client.stdin
        assert self._client.stdout
        self._client.stdin.write(json.dumps({"do": verb, **arguments}) + "\n")
        self._client.stdin.flush()
        answer: dict[str, Any] = json.loads(self._client.stdout.readline())
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()
