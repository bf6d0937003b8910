"""A file of schema 2 becomes one of schema 3, in one transaction."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from support.example_rows import FULL, NOW, TASK_ID, call, row
from support.full_disk import full_disk
from traced_relay.errors import Unavailable
from traced_relay.ledger.protocol import Selection
from traced_relay.ledger.row_codec import columns_of
from traced_relay.ledger.sqlite import SqliteLedger
from traced_relay.ledger.sqlite_file import LARGEST_WITH_ROW, check_file
from traced_relay.runtime.clock import ManualClock
from traced_relay.tasks.row import Response

if TYPE_CHECKING:
    from pathlib import Path

    from traced_relay.tasks.row import Row

SCHEMA_2 = """
CREATE TABLE IF NOT EXISTS tasks (
    task_id TEXT PRIMARY KEY,
    kind TEXT NOT NULL, state TEXT NOT NULL, queue TEXT NOT NULL, caller TEXT NOT NULL,
    rule TEXT, reason TEXT, version TEXT, created_at REAL NOT NULL,
    next_attempt_at REAL, worker TEXT, round INTEGER NOT NULL, expires_at REAL,
    revision INTEGER NOT NULL, noted_attempt INTEGER NOT NULL DEFAULT 0, callback_ended_at REAL, document TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tasks_by_time ON tasks (next_attempt_at, task_id) WHERE next_attempt_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS tasks_by_worker ON tasks (worker) WHERE worker IS NOT NULL;
CREATE INDEX IF NOT EXISTS tasks_by_end ON tasks (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS tasks_by_age ON tasks (kind, created_at DESC, task_id DESC);
CREATE INDEX IF NOT EXISTS tasks_by_state ON tasks (kind, state, created_at DESC, task_id DESC);
CREATE TABLE IF NOT EXISTS bodies (
    task_id TEXT NOT NULL REFERENCES tasks ON DELETE CASCADE, part TEXT NOT NULL, content BLOB NOT NULL,
    PRIMARY KEY (task_id, part)
);
CREATE TABLE IF NOT EXISTS labels (
    task_id TEXT NOT NULL REFERENCES tasks ON DELETE CASCADE, name TEXT NOT NULL, value TEXT NOT NULL,
    PRIMARY KEY (task_id, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS workers (
    worker TEXT PRIMARY KEY, seen_at REAL NOT NULL, alive_until REAL NOT NULL, unsent TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cuts (
    worker TEXT NOT NULL REFERENCES workers ON DELETE CASCADE, attempt_name TEXT NOT NULL,
    PRIMARY KEY (worker, attempt_name)
) WITHOUT ROWID;
PRAGMA user_version=2;
"""
SIZES = (0, 1, LARGEST_WITH_ROW, LARGEST_WITH_ROW + 1, 100_000)
ROWS = [
    *(
        row(
            task_id=f"size{size}",
            created_at=NOW + size,
            call=call(body=b"x" * size, labels={"size": str(size)}),
            response=Response(status_code=200, headers={"a": "b"}, body=b"y" * size),
            noted_attempt=1,
        )
        for size in SIZES
    ),
    row(created_at=NOW - 1, call=FULL.call, state="succeeded", finished_at=NOW, next_attempt_at=None, noted_attempt=4),
    row(task_id="running", created_at=NOW - 2, state="running", worker="w1", next_attempt_at=None),
]


def insert_2(db: sqlite3.Connection, row: Row, retention: float) -> None:
    values = columns_of(row) | {
        "task_id": row.task_id,
        "created_at": row.created_at,
        "noted_attempt": row.noted_attempt,
        "expires_at": row.expires_at(retention),
    }
    marks = ", ".join("?" * len(values))
    db.execute(f"INSERT INTO tasks ({', '.join(values)}) VALUES ({marks})", tuple(values.values()))  # noqa: S608
    db.executemany("INSERT INTO labels VALUES (?, ?, ?)", [(row.task_id, *label) for label in row.call.labels.items()])
    bodies = {"call": row.call.body or None, "response": row.response and row.response.body}
    parts = [(row.task_id, part, body) for part, body in bodies.items() if body is not None]
    db.executemany("INSERT INTO bodies VALUES (?, ?, ?)", parts)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "ledger")) as db, db:
        db.execute("PRAGMA journal_mode=WAL")
        db.executescript(SCHEMA_2)
        for each in ROWS:
            insert_2(db, each, 1000.0)
        db.execute("INSERT INTO workers VALUES ('w1', ?, ?, NULL)", (NOW, NOW + 15))
        db.execute("INSERT INTO cuts VALUES ('w1', 'running-1')")
    return tmp_path / "ledger"


def version(file: Path) -> int:
    with closing(sqlite3.connect(file)) as db:
        found: int = db.execute("PRAGMA user_version").fetchone()[0]
        return found


def check_migrated(ledger: SqliteLedger, clock: ManualClock) -> None:
    assert [ledger.get(each.task_id) for each in ROWS] == ROWS
    assert [found.task_id for found in ledger.select(Selection(), 10).rows] == [
        *(f"size{size}" for size in reversed(SIZES)),
        TASK_ID,
        "running",
    ]
    for size in SIZES:
        [found] = ledger.select(Selection(label=("size", str(size))), 10).rows
        assert found.task_id == f"size{size}"
    assert ledger.keep_alive("w1", 15) == ["running-1"]
    assert [found.task_id for found in ledger.overdue(NOW + 1, 10)] == [
        f"size{size}" for size in sorted(map(str, SIZES))
    ]
    assert ledger.remove(row(task_id="running", revision=1))
    clock.advance(2000)
    assert (ledger.expire(10), ledger.get(TASK_ID)) == (1, None)


def test_rows_bodies_labels_and_workers_stay(file: Path) -> None:
    clock = ManualClock(NOW)
    ledger = SqliteLedger(clock, file, retention=1000.0)
    check_migrated(ledger, clock)
    ledger.close()
    assert version(file) == 3


def test_an_interrupted_migration_is_made_at_the_next_start(file: Path) -> None:
    before = file.stat().st_size
    with full_disk(before + 40_000), pytest.raises(Unavailable, match="the ledger cannot be used"):
        SqliteLedger(ManualClock(NOW), file)
    assert version(file) == 2
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("SELECT COUNT(*) FROM tasks").fetchone() == (len(ROWS),)
    clock = ManualClock(NOW)
    ledger = SqliteLedger(clock, file, retention=1000.0)
    check_migrated(ledger, clock)
    ledger.close()


def test_of_two_processes_one_migrates(file: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda _: SqliteLedger(ManualClock(NOW), file), range(4)))
    for ledger in opened:
        assert ledger.get(TASK_ID) == ROWS[-2]
        ledger.close()


def test_a_check_accepts_it_and_changes_nothing(file: Path) -> None:
    check_file(file)
    assert version(file) == 2


def test_a_migrated_file_has_the_schema_of_a_new_one(file: Path, tmp_path: Path) -> None:
    schemas = []
    for each in (file, tmp_path / "new"):
        SqliteLedger(ManualClock(NOW), each).close()
        with closing(sqlite3.connect(each)) as db:
            found = db.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
            assert db.execute("PRAGMA foreign_key_check").fetchall() == []
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        schemas.append(found)
    assert schemas[0] == schemas[1]
