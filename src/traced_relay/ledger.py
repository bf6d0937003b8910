"""The stored state of all tasks, in SQLite: one row each, changed by compare-and-set on its revision."""

from __future__ import annotations

import json
import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from traced_relay.errors import Unavailable
from traced_relay.machine import Holder
from traced_relay.rows import Row

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from traced_relay.clock import Clock

KEYS_KEPT = 31 * 86_400.0  # as long as Cloud Tasks keeps a task
WORKERS_KEPT = 7 * 86_400.0  # long after the last of a dead worker's calls has been judged

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tasks (
    task_id TEXT PRIMARY KEY,
    kind TEXT NOT NULL, state TEXT NOT NULL, queue TEXT NOT NULL, caller TEXT NOT NULL,
    rule TEXT, reason TEXT, version TEXT, created_at REAL NOT NULL,
    revision INTEGER NOT NULL, noted_attempt INTEGER NOT NULL DEFAULT 0, document TEXT NOT NULL
) WITHOUT ROWID;
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
CREATE TABLE IF NOT EXISTS direct_keys (
    task_id TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, seen_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS workers (
    worker TEXT PRIMARY KEY, seen_at REAL NOT NULL, alive_until REAL NOT NULL, unsent TEXT
) WITHOUT ROWID;
"""
# Bytes are kept apart from what is written with every change, and so is what changes by itself.
_APART: Any = {"call": {"body"}, "response": {"body"}, "noted_attempt": True}
_REMOVE = "DELETE FROM tasks WHERE task_id = ? AND revision = ? AND noted_attempt = 0"
# An empty answer has its place too: it follows one that was not. The same one again is not written again.
_ANSWERED = (
    "INSERT INTO bodies VALUES (?, 'response', ?)"
    " ON CONFLICT DO UPDATE SET content = excluded.content WHERE content != excluded.content"
)
_VERSION = 1
_COLUMNS = ("kind", "state", "queue", "rule", "reason", "version", "caller")


@dataclass(frozen=True)
class Selection:
    """Which tasks a list shows; None leaves a question open. *since* is in seconds since the epoch."""

    kind: str = "call"
    state: str | None = None
    queue: str | None = None
    rule: str | None = None
    reason: str | None = None
    version: str | None = None
    caller: str | None = None
    since: float | None = None
    label: tuple[str, str] | None = None
    before: tuple[float, str] | None = None  # created_at and task_id of the row that the page follows


class SqliteLedger:
    """
    Rows in a SQLite file (WAL, every commit synced), or in memory without one.

    One connection under one lock: a commit takes a tenth of a millisecond, and
    a second process on the same file waits its turn.
    """

    def __init__(self, clock: Clock, file: Path | None = None) -> None:
        self._clock = clock
        self._lock = RLock()
        with _mapped_errors():
            self._db = _open(file)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def insert(self, row: Row) -> bool:
        """Write a new row; False if the task has one already."""
        with self._transaction() as db:
            columns, values = _columns(row)
            names = ("task_id", "created_at", *columns)
            marks = ", ".join("?" * len(names))
            inserted = db.execute(
                f"INSERT INTO tasks ({', '.join(names)}) VALUES ({marks}) ON CONFLICT DO NOTHING",  # noqa: S608
                (row.task_id, row.created_at, *values),
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
            query = "SELECT document, noted_attempt FROM tasks WHERE task_id = ?"
            stored = self._db.execute(query, (task_id,)).fetchone()
            bodies = dict(self._db.execute("SELECT part, content FROM bodies WHERE task_id = ?", (task_id,)))
        return None if stored is None else _row(stored[0], stored[1], bodies)

    def replace(self, row: Row) -> bool:
        """Write the changed *row* over the revision before it; False if another change came first."""
        with self._transaction() as db:
            columns, values = _columns(row)
            changes = ", ".join(f"{column} = ?" for column in columns)
            done = db.execute(
                f"UPDATE tasks SET {changes} WHERE task_id = ? AND revision = ?",  # noqa: S608
                (*values, row.task_id, row.revision - 1),
            )
            if done.rowcount and row.response:
                db.execute(_ANSWERED, (row.task_id, row.response.body))
            return done.rowcount == 1

    def remember_key(self, task_id: str, fingerprint: str) -> bool:
        """Keep what a key was used for where there is no row to ask; False if it was something else."""
        now = self._clock.now()
        with self._transaction() as db:
            db.execute("DELETE FROM direct_keys WHERE seen_at < ?", (now - KEYS_KEPT,))
            db.execute("INSERT INTO direct_keys VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (task_id, fingerprint, now))
            query = "SELECT fingerprint FROM direct_keys WHERE task_id = ?"
            return bool(db.execute(query, (task_id,)).fetchone()[0] == fingerprint)

    def note(self, task_id: str, attempt: int) -> None:
        """Remember that Cloud Tasks has answered for the task of *attempt*; no other change is in its way."""
        with self._transaction() as db:
            db.execute("UPDATE tasks SET noted_attempt = MAX(noted_attempt, ?) WHERE task_id = ?", (attempt, task_id))

    def remove(self, row: Row) -> bool:
        """Forget a row that nobody was told of; False if it has changed since, or its task is known to be there."""
        with self._transaction() as db:
            done = db.execute(_REMOVE, (row.task_id, row.revision))
            return done.rowcount == 1

    def select(self, selection: Selection, limit: int) -> list[Row]:
        """Up to *limit* rows, newest first, without bodies."""
        wheres = [(f"{name} = ?", getattr(selection, name)) for name in _COLUMNS]
        wheres.append(("created_at >= ?", selection.since))
        asked: list[tuple[str, tuple[Any, ...]]] = [(where, (value,)) for where, value in wheres if value is not None]
        if selection.label:
            found = "task_id IN (SELECT task_id FROM labels WHERE name = ? AND value = ?)"
            asked.append((found, selection.label))
        if selection.before:
            asked.append(("(created_at, task_id) < (?, ?)", selection.before))
        query = (
            f"SELECT document, noted_attempt FROM tasks WHERE {' AND '.join(where for where, _ in asked)}"  # noqa: S608
            " ORDER BY created_at DESC, task_id DESC LIMIT ?"
        )
        with self._lock, _mapped_errors():
            stored = self._db.execute(query, (*(v for _, values in asked for v in values), limit)).fetchall()
        return [_row(document, noted_attempt, {}) for document, noted_attempt in stored]

    def keep_alive(self, worker: str, seconds: float) -> None:
        """Let *worker* hold what it runs for the given *seconds* from now, unless it has stopped."""
        now = self._clock.now()
        with self._transaction() as db:
            db.execute("DELETE FROM workers WHERE alive_until < ?", (now - WORKERS_KEPT,))
            db.execute(
                "INSERT INTO workers VALUES (?, ?, ?, NULL) ON CONFLICT DO UPDATE"
                " SET seen_at = excluded.seen_at, alive_until = excluded.alive_until WHERE unsent IS NULL",
                (worker, now, now + seconds),
            )

    def stop(self, worker: str, unsent: Sequence[str]) -> None:
        """Note that *worker* works no more, and of which of its tasks nothing had been sent yet."""
        now = self._clock.now()
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO workers VALUES (?, ?, ?, ?)", (worker, now, now, json.dumps(list(unsent)))
            )

    def holder_of(self, row: Row) -> Holder:
        """What became of the worker that runs *row*, by this ledger's clock."""
        with self._lock, _mapped_errors():
            query = "SELECT alive_until, unsent FROM workers WHERE worker = ?"
            found = self._db.execute(query, (row.worker,)).fetchone()
        if found is None:
            return Holder.LOST
        alive_until, unsent = found
        if unsent is not None:
            return Holder.STOPPED_UNSENT if row.task_id in json.loads(unsent) else Holder.STOPPED
        return Holder.ALIVE if alive_until > self._clock.now() else Holder.LOST

    def heartbeats(self) -> dict[str, float]:
        """When each worker was last seen, in seconds since the epoch."""
        with self._lock, _mapped_errors():
            return dict(self._db.execute("SELECT worker, seen_at FROM workers").fetchall())

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


@contextmanager
def _mapped_errors() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as exc:
        raise Unavailable(f"the ledger cannot be used: {exc}") from exc


def _open(file: Path | None) -> sqlite3.Connection:
    """The database, made or brought up to this version; Unavailable if a later one has changed it."""
    db = sqlite3.connect(file or ":memory:", isolation_level=None, check_same_thread=False, timeout=10)
    try:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            db.execute(f"PRAGMA {pragma}")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise Unavailable(f"the ledger is of version {version}, this relay knows {_VERSION}")
        db.executescript(_SCHEMA)
        db.execute(f"PRAGMA user_version={_VERSION}")
    except BaseException:
        db.close()
        raise
    return db


def _columns(row: Row) -> tuple[list[str], list[Any]]:
    values: dict[str, Any] = {name: getattr(row, name) for name in _COLUMNS}
    values["revision"] = row.revision
    values["document"] = row.model_dump_json(exclude=_APART)
    return list(values), list(values.values())


def _row(document: str, noted_attempt: int, bodies: Mapping[str, bytes]) -> Row:
    try:
        row = Row.model_validate_json(document, extra="ignore")
    except ValidationError as exc:
        raise Unavailable(f"the ledger holds a row this version cannot read: {exc.error_count()} problems") from exc
    changes: dict[str, Any] = {"noted_attempt": noted_attempt}
    if "call" in bodies:
        changes["call"] = row.call.model_copy(update={"body": bodies["call"]})
    if row.response and "response" in bodies:
        changes["response"] = row.response.model_copy(update={"body": bodies["response"]})
    return row.model_copy(update=changes)
