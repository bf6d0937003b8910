"""The ledger in SQLite: in a file, or in the memory of one process."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from traced_relay.ledger import sqlite_lists
from traced_relay.ledger.group_commit import GroupCommit, Note, write_note
from traced_relay.ledger.protocol import EXAMINED, WORKERS_KEPT, Tally
from traced_relay.ledger.row_codec import STORED, columns_of, row_of
from traced_relay.ledger.sqlite_file import (
    LARGEST_WITH_ROW,
    Connections,
    mapped_errors,
    open_reader,
    open_writer,
)
from traced_relay.tasks.state_machine import Holder

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from traced_relay.ledger.protocol import Page, Selection
    from traced_relay.runtime.clock import Clock
    from traced_relay.tasks.row import Row

LIST_READERS = 2
EXAMINED_IN_MEMORY = 2_000  # there lists and changes use one connection
EXPIRED_AT_ONCE = 20  # rows in one transaction

_ONCE = ("task_id", "kind", "queue", "caller", "rule", "created_at")  # no change of a row writes these
_CHANGED = (
    *("state", "reason", "version", "next_attempt_at", "worker", "round", "expires_at", "revision"),
    *("callback_ended_at", "document"),
)
_NAMES = (*_ONCE, *_CHANGED, "noted_attempt", "body", "response_body")
_VALUES = ", ".join(f":{name}" for name in _NAMES)
_INSERT = f"INSERT INTO tasks ({', '.join(_NAMES)}) VALUES ({_VALUES}) ON CONFLICT DO NOTHING"  # noqa: S608
_UPDATE, _UPDATE_WITH_RESPONSE = (
    f"UPDATE tasks SET {', '.join(f'{name} = :{name}' for name in names)}"  # noqa: S608
    " WHERE task_id = :task_id AND revision = :revision - 1"
    for names in (_CHANGED, (*_CHANGED, "response_body"))
)
_BODIES = ", ".join(
    f"COALESCE({column}, (SELECT content FROM bodies WHERE task_id = tasks.task_id AND part = '{part}'))"  # noqa: S608
    for column, part in (("body", "call"), ("response_body", "response"))
)
_GET = f"SELECT {', '.join(STORED)}, {_BODIES} FROM tasks WHERE task_id = ?"  # noqa: S608
_REMOVE = "DELETE FROM tasks WHERE task_id = ? AND revision = ? AND noted_attempt = 0"
_SET_BODY = (
    "INSERT INTO bodies VALUES (:task_id, :part, :content)"
    " ON CONFLICT DO UPDATE SET content = excluded.content WHERE content != excluded.content"
)
_SET_CALLBACK_ENDED = (
    "UPDATE tasks SET callback_ended_at = ?, expires_at = ?"
    " WHERE task_id = ? AND round = ? AND state IN ('succeeded', 'failed', 'cancelled')"
)
_EXPIRE = (
    "DELETE FROM tasks WHERE rowid IN"
    " (SELECT rowid FROM tasks INDEXED BY tasks_by_end WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)"
)
_NOTED = STORED.index("noted_attempt")


class SqliteLedger:
    """
    Rows in a SQLite file (WAL, every commit synced), or in memory without one.

    One connection writes; others read what is committed and wait for no writer (in memory there is only the one). A
    second process on the same file waits for the write lock.
    """

    def __init__(self, clock: Clock, file: Path | None = None, *, retention: float = 7 * 86_400.0) -> None:
        self._clock = clock
        self._retention = retention
        with mapped_errors():
            self._db = open_writer(file)
            self._writer = self._reader = self._list_readers = Connections(self._db)
            if file is not None:
                self._reader = Connections(open_reader(file))
                self._list_readers = Connections(*(open_reader(file) for _ in range(LIST_READERS)))
        self._is_file = file is not None
        self._commits = GroupCommit(self._writer)

    def close(self) -> None:
        self._commits.close()
        for connections in {self._writer, self._reader, self._list_readers}:
            connections.close()

    def insert(self, row: Row) -> bool:
        values = self._values(row)
        return bool(self._commits.write(lambda db: _insert(db, row, values)))

    def get(self, task_id: str) -> Row | None:
        note = self._commits.notes.get(task_id)  # first, since it goes once it is in the row
        for *stored, body, response_body in self._read(_GET, (task_id,)):
            if note is not None:
                stored[_NOTED] = max(stored[_NOTED], note.attempt)
            return row_of(stored, body, response_body)
        return None

    def _read(self, query: str, values: Sequence[Any]) -> list[Any]:
        """On the writer's connection if that is idle: it has the latest pages in its cache."""
        found = self._writer.try_read(query, values)
        return self._reader.read(query, values) if found is None else found

    def starting_with(self, prefix: str, limit: int, *, after: str = "") -> list[Row]:
        return sqlite_lists.starting_with(self._list_readers, prefix, limit, after)

    def get_many(self, task_ids: Sequence[str]) -> dict[str, Row]:
        return sqlite_lists.get_many(self._list_readers, task_ids)

    def replace(self, row: Row, *, callback: Row | None = None) -> bool:
        values = self._values(row)
        new = None if callback is None else (callback, self._values(callback))
        return bool(self._commits.write(lambda db: self._replace(db, row, values, new)))

    def _replace(
        self, db: sqlite3.Connection, row: Row, values: dict[str, Any], callback: tuple[Row, dict[str, Any]] | None
    ) -> bool:
        if not db.execute(_UPDATE if row.response is None else _UPDATE_WITH_RESPONSE, values).rowcount:
            return False
        if values["response_body"] is None and row.response is not None:
            _set_body(db, row.task_id, "response", row.response.body)
        if row.callback_of is not None:
            ended = (row.finished_at, row.expires_at(self._retention))  # its call expires when it does
            db.execute(_SET_CALLBACK_ENDED, (*ended, row.callback_of, row.callback_round))
        if callback is not None:
            _insert(db, *callback)
        return True

    def _values(self, row: Row) -> dict[str, Any]:
        body, response_body = row.call.body, row.response.body if row.response else b""
        return columns_of(row) | {
            "task_id": row.task_id,
            "created_at": row.created_at,
            "expires_at": row.expires_at(self._retention),
            "noted_attempt": row.noted_attempt,
            "body": body if len(body) <= LARGEST_WITH_ROW else None,
            "response_body": response_body if len(response_body) <= LARGEST_WITH_ROW else None,
        }

    def note(self, task_id: str, attempt: int) -> bool:
        return bool(self._commits.write(lambda db: write_note(db, task_id, attempt)))

    def note_soon(self, task_id: str, attempt: int, when_first: Callable[[], None]) -> None:
        if self._is_file:
            self._commits.note(task_id, Note(attempt, when_first))
        elif self.note(task_id, attempt):  # no commit to spare
            when_first()

    def remove(self, row: Row) -> bool:
        return bool(self._commits.write(lambda db: db.execute(_REMOVE, (row.task_id, row.revision)).rowcount))

    def select(self, selection: Selection, limit: int) -> Page:
        examined = EXAMINED if self._is_file else EXAMINED_IN_MEMORY
        return sqlite_lists.select(self._list_readers, selection, limit, examined)

    def overdue(self, before: float, limit: int, *, after: tuple[float, str] | None = None) -> list[Row]:
        values = (before, *(after or (float("-inf"), "")), limit)
        return sqlite_lists.rows_of(self._list_readers.read(sqlite_lists.OVERDUE, values))

    def abandoned(self, limit: int) -> list[Row]:
        return sqlite_lists.rows_of(self._list_readers.read(sqlite_lists.ABANDONED, (self._clock.now(), limit)))

    def tally(self, overdue_before: float) -> Tally:
        [(overdue, oldest_overdue_at)] = self._list_readers.read(sqlite_lists.COUNT_OVERDUE, (overdue_before,))
        [(running,)] = self._list_readers.read(sqlite_lists.COUNT_RUNNING)
        [(callbacks, oldest_callback_at)] = self._list_readers.read(sqlite_lists.COUNT_CALLBACKS)
        return Tally(overdue, oldest_overdue_at, running, callbacks, oldest_callback_at)

    def keep_alive(self, worker: str, seconds: float) -> list[str]:
        now = self._clock.now()

        def renew(db: sqlite3.Connection) -> list[str]:
            db.execute("DELETE FROM workers WHERE alive_until < ?", (now - WORKERS_KEPT,))
            db.execute(
                "INSERT INTO workers VALUES (?, ?, ?, NULL) ON CONFLICT DO UPDATE"
                " SET seen_at = excluded.seen_at, alive_until = excluded.alive_until WHERE unsent IS NULL",
                (worker, now, now + seconds),
            )
            to_abort = db.execute("SELECT attempt_name FROM cuts WHERE worker = ?", (worker,)).fetchall()
            db.execute("DELETE FROM cuts WHERE worker = ?", (worker,))
            return [attempt_name for (attempt_name,) in to_abort]

        names: list[str] = self._commits.write(renew, takes_notes=False)
        return names

    def abort(self, worker: str, attempt_name: str) -> None:
        insert = "INSERT INTO cuts SELECT worker, ? FROM workers WHERE worker = ? ON CONFLICT DO NOTHING"
        self._commits.write(lambda db: db.execute(insert, (attempt_name, worker)))

    def stop(self, worker: str, unsent: Sequence[str]) -> None:
        now = self._clock.now()
        values = (worker, now, now, json.dumps(list(unsent)))
        insert = (
            "INSERT INTO workers VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE"
            " SET seen_at = excluded.seen_at, alive_until = excluded.alive_until, unsent = excluded.unsent"
        )
        self._commits.write(lambda db: db.execute(insert, values))

    def holder_of(self, row: Row) -> Holder:
        query = "SELECT alive_until, unsent FROM workers WHERE worker = ?"
        for alive_until, unsent in self._read(query, (row.worker,)):
            if unsent is not None:
                return Holder.STOPPED_UNSENT if row.attempt_name in json.loads(unsent) else Holder.STOPPED
            return Holder.ALIVE if alive_until > self._clock.now() else Holder.LOST
        return Holder.LOST

    def heartbeats(self, workers: Collection[str]) -> dict[str, float]:
        marks = ", ".join("?" * len(workers))
        query = f"SELECT worker, seen_at FROM workers WHERE worker IN ({marks})"  # noqa: S608
        return dict(self._list_readers.read(query, tuple(workers)))

    def expire(self, limit: int) -> int:
        """In several transactions, so that no other change waits for all of them."""
        expired = 0
        while expired < limit:
            count = self._expire(min(limit - expired, EXPIRED_AT_ONCE))
            expired += count
            if count < EXPIRED_AT_ONCE:
                break
        return expired

    def _expire(self, limit: int) -> int:
        now = self._clock.now()
        count: int = self._commits.write(lambda db: db.execute(_EXPIRE, (now, limit)).rowcount)
        return count


def _insert(db: sqlite3.Connection, row: Row, values: dict[str, Any]) -> bool:
    if not db.execute(_INSERT, values).rowcount:
        return False
    if row.call.labels:
        labels = [(row.task_id, name, value, row.kind, row.created_at) for name, value in row.call.labels.items()]
        db.executemany("INSERT INTO labels VALUES (?, ?, ?, ?, ?)", labels)
    if values["body"] is None:
        _set_body(db, row.task_id, "call", row.call.body)
    return True


def _set_body(db: sqlite3.Connection, task_id: str, part: str, content: bytes) -> None:
    """An unchanged body is not written again."""
    db.execute(_SET_BODY, {"task_id": task_id, "part": part, "content": content})
