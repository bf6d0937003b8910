"""The SQLite file of a ledger: its schema, its connections, and the migration of the version before."""

from __future__ import annotations

import sqlite3
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from traced_relay.errors import Unavailable, map_exceptions
from traced_relay.runtime.private_file import check_content, make_private

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

VERSION, MIGRATED = 3, (2,)
LISTED_BY = ("state", "reason", "version", "caller")  # each has an index in the order of a list
LARGEST_WITH_ROW = 2048  # bytes of a body; every change of its row writes it again, with the document

_PARTIAL = {name: f" WHERE {name} IS NOT NULL" for name in ("reason", "version")}
_LIST_INDEXES = "\n".join(
    f"CREATE INDEX IF NOT EXISTS tasks_by_{name} ON tasks (kind, {name}, created_at DESC, task_id DESC)"
    f"{_PARTIAL.get(name, '')};"
    for name in LISTED_BY
)
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS tasks (
    task_id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL, state TEXT NOT NULL, queue TEXT NOT NULL, caller TEXT NOT NULL,
    rule TEXT, reason TEXT, version TEXT, created_at REAL NOT NULL,
    next_attempt_at REAL, worker TEXT, round INTEGER NOT NULL, expires_at REAL,
    revision INTEGER NOT NULL, noted_attempt INTEGER NOT NULL, callback_ended_at REAL,
    document TEXT NOT NULL,
    body BLOB, response_body BLOB -- NULL: too large for the row, in bodies
);
CREATE INDEX IF NOT EXISTS tasks_by_time ON tasks (next_attempt_at, task_id) WHERE next_attempt_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS tasks_by_end ON tasks (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS tasks_by_age ON tasks (kind, created_at DESC, task_id DESC, queue, rule);
{_LIST_INDEXES}
CREATE TABLE IF NOT EXISTS bodies (
    task_id TEXT NOT NULL REFERENCES tasks (task_id) ON DELETE CASCADE, part TEXT NOT NULL, content BLOB NOT NULL,
    PRIMARY KEY (task_id, part)
);
CREATE TABLE IF NOT EXISTS labels (
    task_id TEXT NOT NULL REFERENCES tasks (task_id) ON DELETE CASCADE, name TEXT NOT NULL, value TEXT NOT NULL,
    kind TEXT NOT NULL, created_at REAL NOT NULL,
    PRIMARY KEY (task_id, name)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS labels_by_age ON labels (name, value, kind, created_at DESC, task_id DESC);
CREATE TABLE IF NOT EXISTS workers (
    worker TEXT PRIMARY KEY, seen_at REAL NOT NULL, alive_until REAL NOT NULL, unsent TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cuts (
    worker TEXT NOT NULL REFERENCES workers ON DELETE CASCADE, attempt_name TEXT NOT NULL,
    PRIMARY KEY (worker, attempt_name)
) WITHOUT ROWID;
DROP TABLE IF EXISTS direct_keys;
DROP TABLE IF EXISTS key_uses;
"""
_COPIED = (
    "tasks.task_id, kind, state, queue, caller, rule, reason, version, created_at, next_attempt_at, worker, round,"
    " expires_at, revision, noted_attempt, callback_ended_at, document"
)
_BEFORE_MIGRATION = """
DROP INDEX tasks_by_time;
DROP INDEX tasks_by_worker;
DROP INDEX tasks_by_end;
DROP INDEX tasks_by_age;
DROP INDEX tasks_by_state;
ALTER TABLE tasks RENAME TO tasks_2;
ALTER TABLE bodies RENAME TO bodies_2;
ALTER TABLE labels RENAME TO labels_2;
"""
_BODIES = ", ".join(
    f"CASE WHEN length({part}.content) > {LARGEST_WITH_ROW} THEN NULL ELSE COALESCE({part}.content, x'') END"
    for part in ("call", "response")
)
_AFTER_MIGRATION = f"""
INSERT INTO tasks ({_COPIED.replace("tasks.", "")}, body, response_body)
    SELECT {_COPIED}, {_BODIES} FROM tasks_2 AS tasks
    LEFT JOIN bodies_2 AS call ON call.task_id = tasks.task_id AND call.part = 'call'
    LEFT JOIN bodies_2 AS response ON response.task_id = tasks.task_id AND response.part = 'response'
    ORDER BY created_at;
INSERT INTO bodies SELECT * FROM bodies_2 WHERE length(content) > {LARGEST_WITH_ROW};
INSERT INTO labels SELECT task_id, name, value, kind, created_at FROM labels_2 JOIN tasks USING (task_id);
DROP TABLE labels_2;
DROP TABLE bodies_2;
DROP TABLE tasks_2;
"""  # noqa: S608


def unavailable(exc: Exception) -> Unavailable:
    return Unavailable(f"the ledger cannot be used: {exc}")


mapped_errors = partial(map_exceptions, ((sqlite3.Error, OSError), unavailable))


class Connections:
    """Connections of which one thread at a time uses each; a thread waits for an idle one."""

    def __init__(self, *connections: sqlite3.Connection) -> None:
        self._count = len(connections)
        self._idle: SimpleQueue[sqlite3.Connection] = SimpleQueue()
        for connection in connections:
            self._idle.put(connection)

    def use(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        db = self._idle.get()
        try:
            return work(db)
        finally:
            self._idle.put(db)

    def try_read(self, query: str, values: Sequence[Any]) -> list[Any] | None:
        """The same as `read`; None if no connection is idle, or it has changes that could not be rolled back."""
        try:
            db = self._idle.get_nowait()
        except Empty:
            return None
        try:
            return None if db.in_transaction else db.execute(query, values).fetchall()
        except (sqlite3.Error, OSError) as exc:
            raise unavailable(exc) from exc
        finally:
            self._idle.put(db)

    def read(self, query: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        """All rows that the *query* finds; it may read nothing beyond a bound."""
        db = self._idle.get()
        try:
            return db.execute(query, values).fetchall()
        except (sqlite3.Error, OSError) as exc:
            raise unavailable(exc) from exc
        finally:
            self._idle.put(db)

    def close(self) -> None:
        for db in [self._idle.get() for _ in range(self._count)]:
            db.close()
            self._idle.put(db)  # what uses it now fails, and does not wait forever


def check_file(file: Path) -> None:
    """Raise Unavailable if *file* exists and is no ledger of a known version; nothing is created or changed."""
    with mapped_errors():
        if file.exists():
            check_content(file, _SCHEMA, VERSION, MIGRATED)


def open_writer(file: Path | None) -> sqlite3.Connection:
    """The database, created if it is new, migrated if it is of the version before; Unavailable for any other."""
    if file:
        make_private(file, _SCHEMA, VERSION, MIGRATED)
    db = _connect(file)
    try:
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            db.execute(f"PRAGMA {pragma}")
        _prepare(db)
        db.execute("PRAGMA foreign_keys=ON")  # after the migration, which drops tables that others refer to
    except BaseException:
        db.close()
        raise
    return db


def open_reader(file: Path) -> sqlite3.Connection:
    """A connection that reads what is committed and never waits for the writer (WAL)."""
    db = _connect(file)
    db.execute("PRAGMA query_only=ON")
    return db


def _connect(file: Path | None) -> sqlite3.Connection:
    return sqlite3.connect(file or ":memory:", isolation_level=None, check_same_thread=False, timeout=10)


def _prepare(db: sqlite3.Connection) -> None:
    """Create what is missing, in one transaction: after a crash the file is as it was."""
    db.execute("BEGIN IMMEDIATE")  # another process may do the same
    try:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        script = f"{_BEFORE_MIGRATION} {_SCHEMA} {_AFTER_MIGRATION}" if version in MIGRATED else _SCHEMA
        for statement in script.split(";\n"):
            db.execute(statement)
        db.execute(f"PRAGMA user_version={VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
