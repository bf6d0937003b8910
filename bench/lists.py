"""
What one caller's lists cost the others: POST and dispatch over a large SQLite ledger, alone and beside a lister.

The lister asks for the worst lists in a loop: filters that match nothing, few
rows with a label, a full page, a short id.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import time
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING

from bench import http_load
from bench.dispatch import PRELOADED_PER_SECOND, preload
from bench.figures import Cell, Sample, Scale, Table, Variant, alternate, middle, ratio
from bench.processes import ROOT, free_port, module
from bench.relays import HELD, LIVE, Queue, RelayServer
from bench.sink import Sink
from bench.tasks_load import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from bench.progress import Progress

CLIENTS = (1, 8)
RARE = 200  # rows with a label that few have
REST = 0.5  # seconds after the lister stopped, so that none of its requests is left
LISTS = (
    "/v1/tasks?state=succeeded&reason=timeout",
    f"/v1/tasks?label.team=rare&limit={RARE}",
    "/v1/tasks?label.team=common&reason=timeout&rule=none",
    "/v1/tasks?limit=200",
    "/v1/tasks/00ab",
)
_COPY = """
INSERT INTO tasks ({names})
WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {count}),
    new(n, id, at) AS MATERIALIZED (SELECT n, lower(hex(randomblob(16))), {now} - n * 0.1 FROM number)
SELECT {values} FROM new, (SELECT * FROM tasks LIMIT 1) AS model
"""
_CHANGED = {
    "task_id": "new.id",
    "created_at": "new.at",
    "state": "CASE WHEN n % 10 THEN 'succeeded' ELSE 'failed' END",
    "reason": "CASE WHEN n % 10 THEN NULL ELSE 'timeout' END",
    "version": "'v1'",
    "next_attempt_at": "NULL",
    "expires_at": "{now} + 500000",
    "document": "json_set(model.document, '$.task_id', new.id, '$.created_at', new.at, '$.next_attempt_at', NULL)",
}
_LABELS = """
INSERT INTO labels (task_id, name, value, kind, created_at)
SELECT task_id, 'team', CASE WHEN rowid % {every} THEN 'common' ELSE 'rare' END, kind, created_at FROM tasks
WHERE rowid > 1 AND (rowid % 10 = 1 OR rowid % {every} = 0)
"""


def run(scale: Scale, progress: Progress, directory: Path) -> list[Table]:
    return [_at(rows, scale, progress, directory) for rows in scale.rows]


def _at(rows: int, scale: Scale, progress: Progress, directory: Path) -> Table:
    file = directory / f"ledger-{rows}.db"
    with ExitStack() as running:
        sink = running.enter_context(Sink(directory))
        queue = running.enter_context(Queue(directory))
        sink.wait()
        queue.wait()
        held = Tasks(queue.address, [HELD], sink)
        for tasks in (held, Tasks(queue.address, [LIVE], sink)):
            tasks.make_queues()
        held.pause()
        port, token = free_port(), queue.token()

        def relay() -> RelayServer:
            return RelayServer(directory, ledger=f"sqlite:{file}", queue=queue, downstream=sink.url, port=port)

        with relay() as first:  # makes the file, and the row that all others are copies of
            first.wait_ready()
            first.enqueue([{"url": f"{sink.url}/work", "queue": "held", "body": {"report": 7}}], token)
        progress.say(f"fill a ledger with {rows} rows")
        _fill(file, rows)
        serving = running.enter_context(relay())
        serving.wait_ready()
        lister = running.enter_context(_lister(port, token))
        call = json.dumps({"url": f"{sink.url}/work", "body": {"report": 7}}).encode()
        posted = http_load.request(
            "POST", "/v1/tasks", call, content_type="application/json", authorization=f"Bearer {token}"
        )

        def post(clients: int, seconds: float) -> Sample:
            found = http_load.run(serving, clients, repeat(posted), status=202, seconds=seconds)
            held.purge()
            return found

        def dispatch(clients: int, seconds: float) -> Sample:
            dispatches = preload(serving, sink.url, token, int(PRELOADED_PER_SECOND * seconds))
            return http_load.run(serving, clients, dispatches, status=200)

        def beside(measure: Callable[[int, float], Sample], clients: int, seconds: float) -> Sample:
            lister.send_signal(signal.SIGCONT)
            try:
                return measure(clients, seconds)
            finally:
                lister.send_signal(signal.SIGSTOP)
                time.sleep(REST)

        variants = []
        for clients in CLIENTS:
            for name, measure in (("POST", post), ("dispatch", dispatch)):
                variants += [
                    Variant(name, clients, partial(measure, clients)),
                    Variant(f"{name} beside lists", clients, partial(beside, measure, clients)),
                ]
        samples = alternate(variants, rounds=scale.rounds, seconds=scale.seconds * 2, progress=progress)
    return _compared(rows, variants, samples)


def _fill(file: Path, rows: int) -> None:
    """Copies of the one row, all ended, with other ids and times."""
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-500000"):
            db.execute(f"PRAGMA {pragma}")
        names = [name for _, name, *_ in db.execute("PRAGMA table_info(tasks)")]
        indexes = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL").fetchall()
        values = ", ".join(_CHANGED.get(name, f"model.{name}") for name in names)
        now = time.time()
        db.execute("BEGIN")
        for name, _ in indexes:
            db.execute(f"DROP INDEX {name}")
        db.execute(_COPY.format(names=", ".join(names), count=rows, values=values.format(now=now), now=now))
        db.execute(_LABELS.format(every=rows // RARE))
        for _, sql in indexes:
            db.execute(sql)
        db.execute("COMMIT")
        db.execute("PRAGMA journal_mode=WAL")


@contextmanager
def _lister(port: int, token: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that asks for lists while it is not stopped, which it is at first."""
    process = subprocess.Popen(module("bench.lister", str(port), token, *LISTS), cwd=ROOT)
    process.send_signal(signal.SIGSTOP)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _compared(rows: int, variants: Sequence[Variant], samples: Sequence[Sequence[Sample]]) -> Table:
    """One line a variant: rate and p99, and both as a part of those without lists in the same rounds."""
    lines: list[tuple[Cell, ...]] = []
    for place, (variant, found) in enumerate(zip(variants, samples, strict=True)):
        alone = samples[place - place % 2]
        rate = ratio((s.per_second for s in found), (s.per_second for s in alone))
        slower = ratio((s.p99 for s in found), (s.p99 for s in alone))
        own = (middle(s.per_second for s in found), middle(s.p50 for s in found), middle(s.p99 for s in found))
        lines.append((variant.name, variant.clients, *own, rate, slower))
    headings = ("", "clients", "per second", "p50 ms", "p99 ms", "of alone", "p99 times alone")
    notes = (f"Beside lists: another process asks for {len(LISTS)} lists and short ids in a loop, over 4 connections.",)
    return Table(f"lists: over a SQLite ledger of {rows:,} rows", headings, lines, notes)
