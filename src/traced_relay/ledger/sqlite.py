"""The ledger in SQLite: in a file, or in the memory of one process."""

from __future__ import annotations

import json
import sqlite3
from contextlib import contextmanager
from functools import partial
from threading import RLock
from typing import TYPE_CHECKING, Any

from traced_relay.errors import Unavailable, map_exceptions
from traced_relay.ledger.protocol import BEYOND_DIGITS, FILTERS, WORKERS_KEPT, Tally
from traced_relay.ledger.row_codec import STORED, columns_of, row_of
from traced_relay.runtime.private_file import check_content, make_private
from traced_relay.tasks.state_machine import Holder

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from traced_relay.ledger.protocol import Selection
    from traced_relay.runtime.clock import Clock
    from traced_relay.tasks.row import Row

_SCHEMA = """
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
"""
_SELECT = f"SELECT {', '.join(STORED)} FROM tasks WHERE"  # noqa: S608
_REMOVE = "DELETE FROM tasks WHERE task_id = ? AND revision = ? AND noted_attempt = 0"
# An empty response is written too, since it replaces an earlier one. An unchanged response is not written again.
_SET_RESPONSE = (
    "INSERT INTO bodies VALUES (?, 'response', ?)"
    " ON CONFLICT DO UPDATE SET content = excluded.content WHERE content != excluded.content"
)
_SET_CALLBACK_ENDED = (
    "UPDATE tasks SET callback_ended_at = ?, expires_at = ?"
    " WHERE task_id = ? AND round = ? AND state IN ('succeeded', 'failed', 'cancelled')"
)
_PENDING_CALLBACKS = (
    "SELECT COUNT(*), MIN(created_at) FROM tasks"
    " WHERE kind = 'callback' AND state NOT IN ('succeeded', 'failed', 'cancelled')"
)
_VERSION = 2


class SqliteLedger:
    """
    Rows in a SQLite file (WAL, every commit synced), or in memory without one.

    One connection under one lock: a commit takes 0.1 ms. A second process on the same file waits for the write lock.
    """

    def __init__(self, clock: Clock, file: Path | None = None, *, retention: float = 7 * 86_400.0) -> None:
        self._clock = clock
        self._retention = retention
        self._lock = RLock()
        with _mapped_errors():
            self._db = _open(file)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def insert(self, row: Row) -> bool:
        with self._transaction() as db:
            return self._insert(db, row)

    def _insert(self, db: sqlite3.Connection, row: Row) -> bool:
        columns, values = self._columns(row)
        names = ("task_id", "created_at", "noted_attempt", *columns)
        marks = ", ".join("?" * len(names))
        inserted = db.execute(
            f"INSERT INTO tasks ({', '.join(names)}) VALUES ({marks}) ON CONFLICT DO NOTHING",  # noqa: S608
            (row.task_id, row.created_at, row.noted_attempt, *values),
        )
        if not inserted.rowcount:
            return False
        labels = [(row.task_id, name, value) for name, value in row.call.labels.items()]
        db.executemany("INSERT INTO labels VALUES (?, ?, ?)", labels)
        if row.call.body:
            db.execute("INSERT INTO bodies VALUES (?, 'call', ?)", (row.task_id, row.call.body))
        return True

    def get(self, task_id: str) -> Row | None:
        with self._lock, _mapped_errors():
            stored = self._db.execute(f"{_SELECT} task_id = ?", (task_id,)).fetchone()
            bodies = dict(self._db.execute("SELECT part, content FROM bodies WHERE task_id = ?", (task_id,)))
        return None if stored is None else row_of(stored, bodies.get("call", b""), bodies.get("response", b""))

    def starting_with(self, prefix: str, limit: int, *, after: str = "") -> list[Row]:
        where = "task_id >= ? AND task_id > ? AND task_id < ? ORDER BY task_id LIMIT ?"
        return self._rows(where, (prefix, after, prefix + BEYOND_DIGITS, limit))

    def get_many(self, task_ids: Sequence[str]) -> dict[str, Row]:
        marks = ", ".join("?" * len(task_ids))
        return {row.task_id: row for row in self._rows(f"task_id IN ({marks})", task_ids)}

    def replace(self, row: Row, *, callback: Row | None = None) -> bool:
        with self._transaction() as db:
            columns, values = self._columns(row)
            changes = ", ".join(f"{column} = ?" for column in columns)
            done = db.execute(
                f"UPDATE tasks SET {changes} WHERE task_id = ? AND revision = ?",  # noqa: S608
                (*values, row.task_id, row.revision - 1),
            )
            if not done.rowcount:
                return False
            if row.response:
                db.execute(_SET_RESPONSE, (row.task_id, row.response.body))
            if row.callback_of is not None:
                ended = (row.finished_at, row.expires_at(self._retention))  # its call expires when it does
                db.execute(_SET_CALLBACK_ENDED, (*ended, row.callback_of, row.callback_round))
            if callback is not None:
                self._insert(db, callback)
            return True

    def note(self, task_id: str, attempt: int) -> bool:
        with self._transaction() as db:
            first = db.execute(
                "UPDATE tasks SET noted_attempt = ? WHERE task_id = ? AND noted_attempt = 0", (attempt, task_id)
            )
            if first.rowcount:
                return True
            db.execute("UPDATE tasks SET noted_attempt = MAX(noted_attempt, ?) WHERE task_id = ?", (attempt, task_id))
            return False

    def remove(self, row: Row) -> bool:
        with self._transaction() as db:
            done = db.execute(_REMOVE, (row.task_id, row.revision))
            return done.rowcount == 1

    def select(self, selection: Selection, limit: int) -> list[Row]:
        wheres = [(f"{name} = ?", getattr(selection, name)) for name in FILTERS]
        wheres.append(("created_at >= ?", selection.since))
        given: list[tuple[str, tuple[Any, ...]]] = [(where, (value,)) for where, value in wheres if value is not None]
        if selection.label:
            labelled = "task_id IN (SELECT task_id FROM labels WHERE name = ? AND value = ?)"
            given.append((labelled, selection.label))
        if selection.before:
            given.append(("(created_at, task_id) < (?, ?)", selection.before))
        where = " AND ".join(where for where, _ in given)
        values = [value for _, values in given for value in values]
        return self._rows(f"{where} ORDER BY created_at DESC, task_id DESC LIMIT ?", (*values, limit))

    def overdue(self, before: float, limit: int, *, after: tuple[float, str] | None = None) -> list[Row]:
        start = after or (float("-inf"), "")
        where = "next_attempt_at < ? AND (next_attempt_at, task_id) > (?, ?) ORDER BY next_attempt_at, task_id LIMIT ?"
        return self._rows(where, (before, *start, limit))

    def abandoned(self, limit: int) -> list[Row]:
        alive = "SELECT worker FROM workers WHERE unsent IS NULL AND alive_until > ?"
        where = f"worker IS NOT NULL AND worker NOT IN ({alive}) LIMIT ?"
        return self._rows(where, (self._clock.now(), limit))

    def tally(self, overdue_before: float) -> Tally:
        late = "SELECT COUNT(*), MIN(next_attempt_at) FROM tasks WHERE next_attempt_at < ?"
        running = "SELECT COUNT(*) FROM tasks WHERE worker IS NOT NULL"
        with self._lock, _mapped_errors():
            overdue, oldest_overdue_at = self._db.execute(late, (overdue_before,)).fetchone()
            (count,) = self._db.execute(running).fetchone()
            callbacks, oldest_callback_at = self._db.execute(_PENDING_CALLBACKS).fetchone()
        return Tally(overdue, oldest_overdue_at, count, callbacks, oldest_callback_at)

    def _rows(self, where: str, values: Sequence[Any]) -> list[Row]:
        with self._lock, _mapped_errors():
            return [row_of(stored) for stored in self._db.execute(f"{_SELECT} {where}", values).fetchall()]

    def keep_alive(self, worker: str, seconds: float) -> list[str]:
        now = self._clock.now()
        with self._transaction() as db:
            db.execute("DELETE FROM workers WHERE alive_until < ?", (now - WORKERS_KEPT,))
            db.execute(
                "INSERT INTO workers VALUES (?, ?, ?, NULL) ON CONFLICT DO UPDATE"
                " SET seen_at = excluded.seen_at, alive_until = excluded.alive_until WHERE unsent IS NULL",
                (worker, now, now + seconds),
            )
            to_abort = db.execute("SELECT attempt_name FROM cuts WHERE worker = ?", (worker,)).fetchall()
            db.execute("DELETE FROM cuts WHERE worker = ?", (worker,))
            return [attempt_name for (attempt_name,) in to_abort]

    def abort(self, worker: str, attempt_name: str) -> None:
        with self._transaction() as db:
            insert = "INSERT INTO cuts SELECT worker, ? FROM workers WHERE worker = ? ON CONFLICT DO NOTHING"
            db.execute(insert, (attempt_name, worker))

    def stop(self, worker: str, unsent: Sequence[str]) -> None:
        now = self._clock.now()
        with self._transaction() as db:
            db.execute(
                "INSERT INTO workers VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE"
                " SET seen_at = excluded.seen_at, alive_until = excluded.alive_until, unsent = excluded.unsent",
                (worker, now, now, json.dumps(list(unsent))),
            )

    def holder_of(self, row: Row) -> Holder:
        with self._lock, _mapped_errors():
            query = "SELECT alive_until, unsent FROM workers WHERE worker = ?"
            found = self._db.execute(query, (row.worker,)).fetchone()
        if found is None:
            return Holder.LOST
        alive_until, unsent = found
        if unsent is not None:
            return Holder.STOPPED_UNSENT if row.attempt_name in json.loads(unsent) else Holder.STOPPED
        return Holder.ALIVE if alive_until > self._clock.now() else Holder.LOST

    def heartbeats(self, workers: Collection[str]) -> dict[str, float]:
        marks = ", ".join("?" * len(workers))
        with self._lock, _mapped_errors():
            query = f"SELECT worker, seen_at FROM workers WHERE worker IN ({marks})"  # noqa: S608
            return dict(self._db.execute(query, tuple(workers)).fetchall())

    def expire(self, limit: int) -> int:
        over = "SELECT task_id FROM tasks WHERE expires_at <= ? ORDER BY expires_at LIMIT ?"
        with self._transaction() as db:
            gone = db.execute(f"DELETE FROM tasks WHERE task_id IN ({over})", (self._clock.now(), limit))  # noqa: S608
            return gone.rowcount

    def _columns(self, row: Row) -> tuple[list[str], list[Any]]:
        values = columns_of(row) | {"expires_at": row.expires_at(self._retention)}
        return list(values), list(values.values())

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _mapped_errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite itself rolls back after some errors
                    self._db.execute("ROLLBACK")
                raise


_mapped_errors = partial(
    map_exceptions, ((sqlite3.Error, OSError), lambda exc: Unavailable(f"the ledger cannot be used: {exc}"))
)


def check_file(file: Path) -> None:
    """Raise Unavailable if *file* exists and is no ledger of this version; nothing is created or changed."""
    with _mapped_errors():
        if file.exists():
            check_content(file, _SCHEMA, _VERSION)


def _open(file: Path | None) -> sqlite3.Connection:
    """The database, created if it is new; Unavailable if another version created it."""
    if file:
        make_private(file, _SCHEMA, _VERSION)
    db = sqlite3.connect(file or ":memory:", isolation_level=None, check_same_thread=False, timeout=10)
    try:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            db.execute(f"PRAGMA {pragma}")
        db.executescript(f"{_SCHEMA} DROP TABLE IF EXISTS direct_keys; DROP TABLE IF EXISTS key_uses;")  # now rows
        db.execute(f"PRAGMA user_version={_VERSION}")
    except BaseException:
        db.close()
        raise
    return db
