"""
The relay's overhead for a call: from POST /dispatch to its response, including the downstream's.

The tasks are enqueued before in a paused queue, so that each dispatch claims
its row, ends it and writes its records.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any

from bench import http_load, paced_load
from bench.bare_flask import BareFlask
from bench.figures import (
    Sample,
    Scale,
    Table,
    Variant,
    alternate,
    compared,
    compared_additions,
    compared_latencies,
    sample,
)
from bench.processes import Server, free_port
from bench.relays import HELD, LIVE, Queue, RelayServer
from bench.sink import Sink
from bench.tasks_load import REST_BETWEEN, Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from bench.progress import Progress

CLIENTS = (1, 8)
BARE, FLASK = "downstream", "bare Flask"
MEMORY, SQLITE = "relay, memory", "relay, sqlite"
PRELOADED_PER_SECOND = 400
BATCH = 100
PACE = 50  # calls a second: a busy relay of calls that take seconds
BODY = b'{"report": 7}'


@dataclass(frozen=True)
class Running:
    sink: Sink
    queue: Queue
    flask: BareFlask
    relays: dict[str, RelayServer]
    held: Tasks
    token: str


@contextmanager
def servers(directory: Path) -> Iterator[Running]:
    """A durable queue whose App Engine tasks go to the relay with the SQLite ledger, and what it is compared to."""
    with ExitStack() as running:
        sink = running.enter_context(Sink(directory))
        worker_port = free_port()
        queue = running.enter_context(Queue(directory, data="queue.db", worker_port=worker_port))
        flask = running.enter_context(BareFlask(f"passes_on('{sink.url}/work')", directory))
        relays = {
            name: running.enter_context(
                RelayServer(directory, ledger=ledger, queue=queue, downstream=sink.url, port=port)
            )
            for name, ledger, port in (
                (MEMORY, "memory", free_port()),
                (SQLITE, f"sqlite:{directory / 'ledger.db'}", worker_port),
            )
        }
        for server in (sink, queue, flask):
            server.wait()
        held = Tasks(queue.address, [HELD], sink)
        for tasks in (held, Tasks(queue.address, [LIVE], sink)):
            tasks.make_queues()
        held.pause()
        for relay in relays.values():
            relay.wait_ready()
        yield Running(sink, queue, flask, relays, held, queue.token())


def run(scale: Scale, progress: Progress, directory: Path) -> list[Table]:
    with servers(directory) as running:
        return [
            *_overhead(running, scale, progress),
            _at_a_steady_pace(running, scale, progress),
            _whole_path(running, scale, progress),
        ]


def _overhead(running: Running, scale: Scale, progress: Progress) -> list[Table]:
    posted = http_load.request("POST", "/dispatch", BODY, content_type="application/json")

    def straight(server: Server, clients: int) -> Callable[[float], Sample]:
        return lambda seconds: http_load.run(server, clients, repeat(posted), status=200, seconds=seconds)

    def relayed(relay: RelayServer, clients: int) -> Callable[[float], Sample]:
        def measure(seconds: float) -> Sample:
            dispatches = preload(relay, running.sink.url, running.token, int(PRELOADED_PER_SECOND * seconds))
            return http_load.run(relay, clients, dispatches, status=200)

        return measure

    variants = []
    for clients in CLIENTS:
        variants += [Variant(BARE, clients, straight(running.sink, clients))]
        variants += [Variant(FLASK, clients, straight(running.flask, clients))]
        variants += [Variant(name, clients, relayed(relay, clients)) for name, relay in running.relays.items()]
    samples = alternate(variants, rounds=scale.rounds, seconds=scale.seconds, progress=progress)
    servers = (running.flask, *running.relays.values())
    of_servers = [variant for variant in variants if variant.name != BARE]
    cores = os.sched_getaffinity(0)
    for server in servers:
        server.set_cores({max(cores)})
    pinned = alternate(of_servers, rounds=scale.rounds, seconds=scale.seconds, progress=progress)
    for server in servers:
        server.set_cores(cores)
    running.held.purge()
    notes = (
        f"{FLASK}: Flask and requests under gunicorn as the relay's, which sends the body on and no more.",
        "Relay: real tasks; spans made but not exported, records written to a file.",
        "CPU: of the server's process for one dispatch.",
    )
    title = "dispatch: POST /dispatch to its answer"
    return [
        compared(title, variants, samples, (BARE, FLASK), notes, cpu_floor=FLASK),
        compared(f"{title}, each server on one core", of_servers, pinned, (FLASK,), cpu_floor=FLASK),
    ]


def _at_a_steady_pace(running: Running, scale: Scale, progress: Progress) -> Table:
    """The extra latency for a caller at low load."""
    posted = http_load.request("POST", "/dispatch", BODY, content_type="application/json")

    def straight(seconds: float) -> Sample:
        count = int(PACE * seconds)
        return paced_load.run(running.flask.port, [posted] * count, status=200, per_second=PACE)

    def relayed(relay: RelayServer) -> Callable[[float], Sample]:
        def measure(seconds: float) -> Sample:
            dispatches = preload(relay, running.sink.url, running.token, int(PACE * seconds))
            return paced_load.run(relay.port, dispatches, status=200, per_second=PACE)

        return measure

    variants = [Variant(FLASK, 1, straight)]
    variants += [Variant(name, 1, relayed(relay)) for name, relay in running.relays.items()]
    samples = alternate(variants, rounds=scale.rounds, seconds=scale.steady, progress=progress)
    notes = ("Latency from the moment each was due; records, spans, ledger and guard on.",)
    return compared_additions(f"dispatch: {PACE} a second, at a steady pace", variants, samples, FLASK, notes)


def preload(relay: RelayServer, downstream: str, token: str, count: int) -> list[bytes]:
    """The dispatches of newly enqueued tasks, as the queue would send them."""
    call = {"url": f"{downstream}/work", "queue": "held", "body": {"report": 7}}
    dispatches = []
    for start in range(0, count, BATCH):
        receipts = relay.enqueue([call] * min(BATCH, count - start), token)
        dispatches += [dispatch_of(receipt) for receipt in receipts]
    return dispatches


def dispatch_of(receipt: dict[str, Any]) -> bytes:
    """What App Engine's front end would send for the first attempt of a task."""
    task_id, traceparent = receipt["task_id"], f"00-{receipt['trace_id']}-{receipt['trace_id'][:16]}-01"
    headers = {
        "X_AppEngine_QueueName": "held",
        "X_AppEngine_TaskName": f"{task_id}-1",
        "X_AppEngine_TaskRetryCount": "0",
        "X_AppEngine_TaskExecutionCount": "0",
        "X_AppEngine_TaskETA": f"{time.time():.6f}",
        "user_agent": "AppEngine-Google; (+http://code.google.com/appengine)",
        "content_type": "application/json",
        "traceparent": traceparent,
        "x_relay_traceparent": traceparent,
    }
    return http_load.request("POST", "/dispatch", json.dumps({"task_id": task_id, "attempt": 1}).encode(), **headers)


def _whole_path(running: Running, scale: Scale, progress: Progress) -> Table:
    """From the caller's POST to the downstream, through ledger, queue and relay, all of them durable."""
    call = json.dumps({"url": f"{running.sink.url}/work", "queue": "live", "body": {"report": 7}}).encode()
    enqueued = http_load.request(
        "POST", "/v1/tasks", call, content_type="application/json", authorization=f"Bearer {running.token}"
    )
    passed_on = http_load.request("POST", "/dispatch", BODY, content_type="application/json")

    def arriving(message: bytes, status: int, *servers: Server) -> Callable[[float], Sample]:
        return lambda _: _singles(running.sink, servers, message, status, scale.singles)

    variants = [
        Variant(FLASK, 1, arriving(passed_on, 200, running.flask)),
        Variant("whole path", 1, arriving(enqueued, 202, running.relays[SQLITE], running.queue)),
    ]
    running.sink.forget()
    samples = alternate(variants, rounds=scale.few_rounds, seconds=scale.seconds, progress=progress)
    notes = ("CPU: of the server, and for the whole path of relay and queue, until the call has ended.",)
    return compared_latencies("dispatch: one call at a time, from POST to downstream", variants, samples, FLASK, notes)


def _singles(sink: Sink, servers: Sequence[Server], message: bytes, status: int, calls: int) -> Sample:
    latencies, before = [], sum(server.cpu_seconds() for server in servers)
    with http_load.one_client(servers[0].port, status) as client:
        for _ in range(calls):
            sink.ask(1)
            started = time.monotonic()
            client.send(message)
            latencies.append(sink.moments()[0] - started)
            client.await_answer()
            time.sleep(REST_BETWEEN)
    return sample(latencies, cpu=sum(server.cpu_seconds() for server in servers) - before)
