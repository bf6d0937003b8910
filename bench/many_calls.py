"""
Long calls: one relay with a thousand or more at once, over TLS, to a downstream that delays its responses.

The bench sends the dispatches as the queue would. Of each size all get a response once;
the second time the relay is stopped while they run.
"""

from __future__ import annotations

import http.client
import resource
import signal
import subprocess
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.dispatch import BATCH, dispatch_of
from bench.figures import Table, sample
from bench.footprint import cpu_seconds, memory, open_files
from bench.http_load import BadAnswer, Client, one_client
from bench.processes import NotReady, free_port
from bench.relays import HELD, LIVE, Queue, RelayServer
from bench.slow_tls import SlowTls
from bench.tasks_load import Queues

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.figures import Cell, Sample, Scale
    from bench.progress import Progress

MOST_MEMORY = 512 * 1024  # KiB; what App Engine's smaller classes leave after the system's own
SPARE_THREADS = 8  # that a relay keeps from calls
BEYOND = 12  # dispatches for which there is no room
PATIENCE = 60.0
PROBE_EVERY = 0.1
EXIT_SECONDS = 2.0
HEADINGS = (
    *("calls", "MB before", "KiB a call", "MB then", "files a call"),
    *("CPU s/s", "health p50 ms", "p99 ms", "answered 500", "end s"),
)
NOTES = (
    "Resident memory of the relay's processes; CPU while nothing happens but the calls' waiting.",
    f"Answered 500: of {BEYOND} dispatches more than it has threads for; none of the calls failed.",
    "End: from SIGTERM to the exit, with as many calls running, each of which logs attempt.interrupted.",
)


@dataclass(frozen=True)
class Parts:
    directory: Path
    queue: Queue
    downstream: SlowTls
    idle: float
    progress: Progress


def run(scale: Scale, progress: Progress, directory: Path) -> list[Table]:
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    rows: list[tuple[Cell, ...]] = []
    marks: list[str] = []
    failures: list[str] = []
    try:
        with standing(directory, scale, progress) as parts:
            for calls in scale.held:
                try:
                    rows.append(_held(parts, calls, marks))
                except (AssertionError, BadAnswer, NotReady, OSError, subprocess.TimeoutExpired) as exc:
                    failures.append(f"{calls} calls: {type(exc).__name__}: {exc}"[:200])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (now, most))
    return [Table("many: calls that one relay holds", HEADINGS, rows, (*NOTES, *marks), tuple(failures))]


@contextmanager
def standing(directory: Path, scale: Scale, progress: Progress) -> Iterator[Parts]:
    """A downstream that keeps its callers waiting, and a queue that hands out nothing by itself."""
    with SlowTls(directory) as downstream, Queue(directory) as queue:
        for server in (downstream, queue):
            server.wait()
        queues = Queues(queue.address, [HELD, LIVE])
        queues.make_queues()
        queues.pause()
        yield Parts(directory, queue, downstream, scale.idle, progress)


def _held(parts: Parts, calls: int, marks: list[str]) -> tuple[Cell, ...]:
    with ExitStack() as running:
        relay = running.enter_context(relay_with(parts, calls))
        first, second = dispatches(parts, relay, calls + BEYOND), dispatches(parts, relay, calls)
        pid, before = relay.process.pid, memory(relay.process.pid)
        clients = [running.enter_context(one_client(relay.port, 200)) for _ in range(calls)]
        send(parts, clients, first)
        after, files = memory(pid), open_files(pid)
        cpu = _cpu_while_idle(parts, pid)
        health = _health(parts, relay.port)
        deferred = _beyond(relay, first[calls:])
        most = max(after, memory(pid))
        answer(parts, clients)
        send(parts, clients, second)
        end, interrupted = _end(relay)
    for is_missed, mark in (
        (most >= MOST_MEMORY, f"they take {most / 1024:.0f} MB (over {MOST_MEMORY / 1024:.0f} MB)"),
        (end > EXIT_SECONDS, f"the end took {end:.1f} s (over {EXIT_SECONDS:.0f} s)"),
        (relay.process.returncode != 0, f"exit status {relay.process.returncode}"),
        (interrupted != calls, f"{interrupted} of them logged attempt.interrupted"),
        (deferred != BEYOND, f"{deferred} of {BEYOND} dispatches beyond logged dispatch.deferred"),
    ):
        marks += [f"{calls} calls: {mark}"] if is_missed else []
    per_call = (after - before) / calls
    megabytes = [kib / 1024 for kib in (before, most)]
    return (
        *(calls, megabytes[0], per_call, megabytes[1], files / calls),
        *(cpu, health.p50, health.p99, deferred, end),
    )


@contextmanager
def relay_with(parts: Parts, calls: int) -> Iterator[RelayServer]:
    ledger, downstream = f"sqlite:{parts.directory / f'{calls}.db'}", parts.downstream
    trusted, threads = str(downstream.certificate), str(calls + SPARE_THREADS)
    variables: dict[str, Any] = {"SSL_CERT_FILE": trusted, "RELAY_THREADS": threads}
    with RelayServer(
        parts.directory, ledger=ledger, queue=parts.queue, downstream=downstream.url, port=free_port(), **variables
    ) as relay:
        relay.wait_ready()
        yield relay


def dispatches(parts: Parts, relay: RelayServer, count: int) -> list[bytes]:
    call = {"url": f"{parts.downstream.url}/work", "queue": "held", "body": {"report": 7}, "timeout": "10m"}
    token, dispatches = parts.queue.token(), []
    for start in range(0, count, BATCH):
        parts.progress.say(f"{count} calls: enqueued {start}")
        receipts = relay.enqueue([call] * min(BATCH, count - start), token)
        dispatches += [dispatch_of(receipt) for receipt in receipts]
    return dispatches


def send(parts: Parts, clients: list[Client], dispatches: list[bytes]) -> None:
    """All at once, until the downstream has every call."""
    parts.downstream.tell("release")  # what was held for the relay before, if that was told to end
    parts.downstream.tell("hold")
    for client, dispatch in zip(clients, dispatches, strict=False):
        client.send(dispatch)
    deadline = time.monotonic() + PATIENCE
    while (held := parts.downstream.tell("held")) < len(clients):
        assert time.monotonic() < deadline, f"of {len(clients)} calls {held} have come"
        parts.progress.say(f"{len(clients)} calls: the downstream holds {held}")
        time.sleep(0.1)


def _cpu_while_idle(parts: Parts, pid: int) -> float:
    parts.progress.say("the calls wait")
    before, started = cpu_seconds(pid), time.monotonic()
    time.sleep(parts.idle / 2)
    return (cpu_seconds(pid) - before) / (time.monotonic() - started)


def _health(parts: Parts, port: int) -> Sample:
    """As a platform asks: a new connection each time."""
    parts.progress.say("the calls wait, and health is asked for")
    latencies, until = [], time.monotonic() + parts.idle / 2
    while time.monotonic() < until:
        asked = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        connection.request("GET", "/health")
        with connection.getresponse() as answer:
            assert answer.status == 200
            answer.read()
        latencies.append(time.monotonic() - asked)
        connection.close()
        time.sleep(PROBE_EVERY)
    return sample(latencies)


def _beyond(relay: RelayServer, dispatches: list[bytes]) -> int:
    for dispatch in dispatches:
        with one_client(relay.port, 500) as client:
            client.send(dispatch)
            client.await_answer()
    return relay.said('"dispatch.deferred"')


def answer(parts: Parts, clients: list[Client]) -> None:
    assert parts.downstream.tell("release") == len(clients)
    for client in clients:
        client.await_answer()  # BadAnswer, had its call failed


def _end(relay: RelayServer) -> tuple[float, int]:
    """Seconds until the exit, and how many calls logged that they were interrupted."""
    started = time.monotonic()
    relay.process.send_signal(signal.SIGTERM)
    relay.process.wait(PATIENCE)
    took = time.monotonic() - started
    return took, relay.said('"attempt.interrupted"')
