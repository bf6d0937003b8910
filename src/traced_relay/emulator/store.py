"""
The queues on disk: one SQLite file, one writing thread, many changes in a commit.

Changes are written in the order of the engine's decisions.
"""

from __future__ import annotations

import json
import sqlite3
from concurrent.futures import Future
from threading import Condition, Thread
from typing import TYPE_CHECKING

from traced_relay.emulator import changes as c
from traced_relay.emulator import messages as m
from traced_relay.errors import InvalidSettings
from traced_relay.runtime.private_file import UnusableFile, make_private

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

RETRY_AFTER = 0.5
# Seconds for which changes that nothing waits for are collected; after a crash as many attempts are made again.
COLLECT = 0.005

_SCHEMA = """
CREATE TABLE IF NOT EXISTS queues (name TEXT PRIMARY KEY, message BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tasks (
  serial INTEGER PRIMARY KEY, is_named INTEGER NOT NULL, message BLOB NOT NULL, progress TEXT
);
CREATE TABLE IF NOT EXISTS purges (name TEXT PRIMARY KEY, serial INTEGER NOT NULL, until REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS used_task_names (name TEXT NOT NULL, until REAL NOT NULL);
CREATE INDEX IF NOT EXISTS used_task_names_by_end ON used_task_names (until);
CREATE TABLE IF NOT EXISTS used_queue_names (name TEXT NOT NULL, until REAL NOT NULL);
CREATE TABLE IF NOT EXISTS secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""


class Commit(Future[None]):
    """The changes that reach the disk together; its result comes then, or is the error that prevented it."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[c.Change] = []
        self.is_awaited = False


class Store:
    """
    Opens or creates *path*, and locks it for this process until `close`.

    `secret` and `save_secret` keep other small values, such as the key that signs ID tokens.
    """

    def __init__(self, path: Path) -> None:
        self._connection = _open(path)
        self._changed = Condition()
        self._open = Commit()
        self._writing: Commit | None = None
        self._closed = False
        self._writer = Thread(target=self._run, name="queue-store", daemon=True)
        self._writer.start()

    def load(self) -> c.StoredState:
        """The stored state; call it before the first `write`."""
        rows = self._connection.execute
        return c.StoredState(
            queues=[m.Queue.FromString(blob) for (blob,) in rows("SELECT message FROM queues ORDER BY name")],
            tasks=[
                (serial, m.Task.FromString(blob), bool(is_named), tuple(json.loads(progress)) if progress else None)
                for serial, is_named, blob, progress in rows(
                    "SELECT serial, is_named, message, progress FROM tasks ORDER BY serial"
                )
            ],
            task_names=list(rows("SELECT name, until FROM used_task_names ORDER BY until")),
            queue_names=list(rows("SELECT name, until FROM used_queue_names ORDER BY until")),
            purges=tuple(c.PutPurge(*row) for row in rows("SELECT name, serial, until FROM purges ORDER BY serial")),
        )

    def write(self, changes: Sequence[c.Change], *, is_awaited: bool = True) -> Commit | None:
        """
        Add *changes* to the next commit and return it; without *is_awaited* that may start a little later.

        Without changes it returns the commit that puts all earlier ones on disk, or None if they are there.
        """
        with self._changed:
            if self._closed:
                commit = Commit()
                commit.set_exception(sqlite3.ProgrammingError("the store is closed"))
                return commit
            is_first = not self._open.changes
            self._open.changes.extend(changes)
            if self._open.changes and is_awaited and not self._open.is_awaited:
                self._open.is_awaited = True
                self._changed.notify()
            elif changes and is_first:
                self._changed.notify()
            return self._open if self._open.changes else self._writing

    def secret(self, name: str) -> bytes | None:
        row = self._connection.execute("SELECT value FROM secrets WHERE name = ?", (name,)).fetchone()
        return None if row is None else bytes(row[0])

    def save_secret(self, name: str, value: bytes) -> None:
        """Store *value*; it is on disk when this returns. Call it before the first `write`."""
        self._connection.execute("INSERT OR REPLACE INTO secrets VALUES (?, ?)", (name, value))

    def close(self) -> None:
        """Write the remaining changes and close the file."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._writer.join()
        self._connection.close()

    def _run(self) -> None:
        while self._next_commit():
            assert self._writing  # noqa: S101  (set by _next_commit)
            try:
                _write(self._connection, self._writing.changes)
            except sqlite3.Error as exc:
                self._requeue(self._writing, exc)
            else:
                self._writing.set_result(None)

    def _next_commit(self) -> bool:
        """Wait for changes and move them to `_writing`; False once the store is closed and all is written."""
        with self._changed:
            self._writing = None
            while not self._open.changes:
                if self._closed:
                    return False
                self._changed.wait()
            if not (self._open.is_awaited or self._closed):
                self._changed.wait(COLLECT)
            self._writing, self._open = self._open, Commit()
            return True

    def _requeue(self, failed: Commit, error: sqlite3.Error) -> None:
        """
        Put the changes that could not be written before the next ones.

        They were not acknowledged, but the engine continues from them, so no later
        change may be acknowledged before they are on disk.
        """
        with self._changed:
            self._open.changes[:0] = failed.changes
            failed.set_exception(error)
            if self._closed:
                self._open.set_exception(error)
                self._open = Commit()
            else:
                self._changed.wait(RETRY_AFTER)


def _open(path: Path) -> sqlite3.Connection:
    try:
        make_private(path, _SCHEMA)
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
    except UnusableFile as exc:
        raise InvalidSettings(f"queue data {exc}") from exc
    except sqlite3.Error as exc:
        raise InvalidSettings(f"queue data {path}: {exc}") from exc
    try:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.executescript(_SCHEMA)
    except sqlite3.Error as exc:
        connection.close()
        hint = "; is another process using it?" if isinstance(exc, sqlite3.OperationalError) else ""
        raise InvalidSettings(f"queue data {path}: {exc}{hint}") from exc
    return connection


def _write(connection: sqlite3.Connection, changes: Sequence[c.Change]) -> None:
    """
    Write *changes* in one transaction, those of tasks by kind.

    The order of each task's own changes stays, since it is always put, progress, drop. One statement drops all
    tasks: each statement releases the GIL, and waits for it.
    """
    tasks = {change.serial: change for change in changes if isinstance(change, c.PutTask)}
    progress = {change.serial: change.progress for change in changes if isinstance(change, c.SaveProgress)}
    dropped = [change.serial for change in changes if isinstance(change, c.DropTask)]
    kept = [serial for serial in dropped if tasks.pop(serial, None) is None]
    with connection:
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO tasks VALUES (?, ?, ?, NULL)",
            [(put.serial, put.is_named, put.message.SerializeToString()) for put in tasks.values()],
        )
        connection.executemany(
            "UPDATE tasks SET progress = ? WHERE serial = ?",
            [(json.dumps(values), serial) for serial, values in progress.items()],
        )
        if kept:
            connection.execute(
                "DELETE FROM tasks WHERE serial IN (SELECT value FROM json_each(?))", (json.dumps(kept),)
            )
        for change in changes:
            _apply(connection, change)


def _apply(connection: sqlite3.Connection, change: c.Change) -> None:
    execute = connection.execute
    match change:
        case c.PutPurge(name, serial, until):
            execute("INSERT OR REPLACE INTO purges VALUES (?, ?, ?)", (name, serial, until))
        case c.DropPurge(name, serial):
            execute("DELETE FROM purges WHERE name = ? AND serial = ?", (name, serial))
        case c.AddTombstone(name, until):
            execute("INSERT INTO used_task_names VALUES (?, ?)", (name, until))
        case c.ExpireTombstones(until):
            execute("DELETE FROM used_task_names WHERE until <= ?", (until,))
            execute("DELETE FROM used_queue_names WHERE until <= ?", (until,))
        case c.PutQueue(message):
            execute("INSERT OR REPLACE INTO queues VALUES (?, ?)", (message.name, message.SerializeToString()))
        case c.DropQueue(name, until):
            execute("DELETE FROM queues WHERE name = ?", (name,))
            execute("INSERT INTO used_queue_names VALUES (?, ?)", (name, until))
