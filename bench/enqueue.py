"""The cost of an enqueue: POST /v1/tasks to 202, including token, rules, row, task, span and record."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from itertools import repeat
from typing import TYPE_CHECKING

from bench import http_load
from bench.bare_flask import BareFlask
from bench.bare_grpc import BareGrpc
from bench.figures import Sample, Scale, Table, Variant, alternate, compared
from bench.processes import Server, free_port
from bench.relays import HELD, LIVE, Queue, RelayServer
from bench.sink import Sink
from bench.tasks_load import Tasks, queue_names

if TYPE_CHECKING:
    from pathlib import Path

    from bench.progress import Progress

CLIENTS = (1, 8)
GRPC, FLASK = "bare gRPC", "bare Flask"


def run(scale: Scale, progress: Progress, directory: Path) -> list[Table]:
    with ExitStack() as running:
        sink = running.enter_context(Sink(directory))
        echo = running.enter_context(BareGrpc(directory))
        queue = running.enter_context(Queue(directory))
        flask = running.enter_context(BareFlask(f"creates_tasks('{queue.address}', '{HELD}')", directory))
        relays = {
            name: running.enter_context(
                RelayServer(directory, ledger=ledger, queue=queue, downstream=sink.url, port=free_port())
            )
            for name, ledger in (("relay, memory", "memory"), ("relay, sqlite", f"sqlite:{directory / 'ledger.db'}"))
        }
        for server in (sink, echo, queue, flask):
            server.wait()
        held = Tasks(queue.address, [HELD], sink)
        for tasks in (held, Tasks(queue.address, [LIVE], sink)):
            tasks.make_queues()
        held.pause()
        for relay in relays.values():
            relay.wait_ready()
        bare = Tasks(echo.address, queue_names(1), sink)
        call = json.dumps({"url": f"{sink.url}/work", "body": {"report": 7}}).encode()
        authorization = f"Bearer {queue.token()}"
        posted = http_load.request(
            "POST", "/v1/tasks", call, content_type="application/json", authorization=authorization
        )
        to_sink = http_load.request("POST", "/work", call, content_type="application/json")

        def http(name: str, server: Server, message: bytes, status: int, clients: int) -> Variant:
            def measure(seconds: float) -> Sample:
                found = http_load.run(server, clients, repeat(message), status=status, seconds=seconds)
                held.purge()
                return found

            return Variant(name, clients, measure)

        def grpc(clients: int) -> Variant:
            return Variant(GRPC, clients, lambda seconds: bare.create(clients, seconds=seconds))

        floors, servers = [], []
        for clients in CLIENTS:
            floors += [http("the load itself", sink, to_sink, 200, clients), grpc(clients)]
            servers += [http(FLASK, flask, posted, 202, clients)]
            servers += [http(name, relay, posted, 202, clients) for name, relay in relays.items()]
        samples = alternate([*floors, *servers], rounds=scale.rounds, seconds=scale.seconds, progress=progress)
        for server in (flask, *relays.values()):
            server.set_cores({max(os.sched_getaffinity(0))})
        pinned = alternate(servers, rounds=scale.rounds, seconds=scale.seconds, progress=progress)
    notes = (
        f"{GRPC}: Google's client, an empty server. {FLASK}: gunicorn as the relay's; makes the task and no more.",
        "Flask and the relays make tasks in `traced-relay queue` (memory, paused). The load itself: to a bare socket.",
        "CPU: of the server's process for one request.",
    )
    title = "enqueue: POST /v1/tasks to 202"
    return [
        compared(title, [*floors, *servers], samples, (GRPC, FLASK), notes, cpu_floor=FLASK),
        compared(f"{title}, each server on one core", servers, pinned, (FLASK,), cpu_floor=FLASK),
    ]
