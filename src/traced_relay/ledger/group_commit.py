"""Group commit: changes that arrive while another is being committed share the next transaction."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import suppress
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any, NamedTuple

from traced_relay.errors import Unavailable
from traced_relay.ledger.sqlite_file import unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from traced_relay.ledger.sqlite_file import Connections

MAX_DELAY = 0.05  # seconds until a note is written that no other transaction took along
RETRY_DELAY = 1.0
LAST_WAIT = 500  # milliseconds for the lock of another process, when this one ends

_FIRST_NOTE = "UPDATE tasks SET noted_attempt = ? WHERE task_id = ? AND noted_attempt = 0"
_LATER_NOTE = "UPDATE tasks SET noted_attempt = MAX(noted_attempt, ?) WHERE task_id = ?"

_logger = logging.getLogger(__name__)


class Note(NamedTuple):
    """The task of *attempt* exists; *when_first* follows the commit of a row's first note."""

    attempt: int
    when_first: Callable[[], None]


class _Change:
    __slots__ = ("error", "is_done", "result", "takes_notes", "turn", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], Any], *, takes_notes: bool) -> None:
        self.work = work
        self.takes_notes = takes_notes
        self.turn: Any = None  # a lock that is released when the change is done, or is the next to lead
        self.is_done = False
        self.result: Any = None
        self.error: BaseException | None = None


class GroupCommit:
    """
    Runs changes in transactions on the one connection of *writer*.

    The thread that comes first commits for all that wait; the next of them then leads. A note waits for the next
    transaction, at most MAX_DELAY; the leading thread calls what follows a first note, after it has let others go on.
    """

    def __init__(self, writer: Connections) -> None:
        self._writer = writer
        self._lock = Lock()
        self._waiting: list[_Change] = []
        self._is_led = False
        self.notes: dict[str, Note] = {}  # by task, until they are committed
        self._transactions = 0
        self._has_notes, self._is_closed = Event(), Event()
        self._flusher: Thread | None = None

    def write(self, work: Callable[[sqlite3.Connection], Any], *, takes_notes: bool = True) -> Any:
        """
        The result of *work* once it is committed; after an error nothing of it is. It may run twice.

        A thread that must not wait for the log *takes_notes* of no others; if it leads, it commits its change alone.
        """
        change = _Change(work, takes_notes=takes_notes)
        with self._lock:
            leads, self._is_led = not self._is_led, True
            self._waiting.append(change)
            if not leads:
                change.turn = Lock()
                change.turn.acquire()
        if not leads:
            change.turn.acquire()
        if not change.is_done:
            self._lead(change)
        if change.error is not None:
            raise change.error
        return change.result

    def _lead(self, leading: _Change) -> None:
        with self._lock:
            changes = self._waiting if leading.takes_notes else [leading]  # a removal must not miss a note
            self._waiting = self._waiting[len(changes) :]  # the leading change is the first of them
            notes = dict(self.notes) if leading.takes_notes else {}
        firsts: list[Note] = []
        try:
            self._writer.use(lambda db: self._run(db, changes, notes, firsts))
        except BaseException as exc:  # noqa: BLE001  (raised by the threads of the changes)
            _fail([change for change in changes if not change.is_done], exc)
        finally:
            with self._lock:
                following = self._waiting[:1]
                self._is_led = bool(following)
            for change in (*changes, *following):
                if change.turn is not None:
                    change.turn.release()
        _follow(firsts)

    def _run(self, db: sqlite3.Connection, changes: list[_Change], notes: dict[str, Note], firsts: list[Note]) -> None:
        """Commit *changes* and *notes*; adds the notes that were a row's first to *firsts*."""
        try:
            if db.in_transaction:  # the last ROLLBACK failed
                db.execute("ROLLBACK")
            db.execute("BEGIN IMMEDIATE")
        except BaseException as exc:  # noqa: BLE001
            _fail(changes, exc)
            return
        try:
            written = [note for task_id, note in notes.items() if write_note(db, task_id, note.attempt)]
            for change in changes:
                change.result = change.work(db)
            db.execute("COMMIT")
        except BaseException as exc:  # noqa: BLE001
            with suppress(sqlite3.Error):  # the next transaction repeats it
                if db.in_transaction:  # SQLite itself rolls back after some errors
                    db.execute("ROLLBACK")
            if len(changes) == 1:
                _fail(changes, exc)
                return
            for change in changes:  # one fails alone
                self._run(db, [change], notes, firsts)
            return
        for change in changes:
            change.is_done = True
        firsts += written
        self._transactions += 1
        if notes:
            self._forget(notes)

    def _forget(self, notes: dict[str, Note]) -> None:
        with self._lock:
            for task_id, note in notes.items():
                if self.notes.get(task_id) is note:  # else another one came meanwhile
                    del self.notes[task_id]

    def note(self, task_id: str, note: Note) -> None:
        """Write the *note* with the next transaction."""
        with self._lock:
            if self._is_closed.is_set():
                raise Unavailable("the ledger cannot be used: it is closed")
            earlier = self.notes.get(task_id)
            if earlier is not None:
                note = Note(max(note.attempt, earlier.attempt), earlier.when_first)
            self.notes[task_id] = note
            if self._flusher is None:
                self._flusher = Thread(target=self._flush, name="the ledger's notes", daemon=True)
                self._flusher.start()
        if not self._has_notes.is_set():
            self._has_notes.set()

    def _flush(self) -> None:
        """Write the notes that no transaction takes along."""
        pause = MAX_DELAY / 2
        while self._has_notes.wait():
            before = self._transactions
            if self._is_closed.wait(pause):
                return
            pause = MAX_DELAY / 2
            if self._transactions == before and self.notes and not self._write_notes():
                pause = RETRY_DELAY
            self._has_notes.clear()
            if self.notes:
                self._has_notes.set()

    def _write_notes(self) -> bool:
        try:
            self.write(lambda _: None)
        except Unavailable as exc:
            _logger.warning("the notes of %d tasks wait for the ledger: %s", len(self.notes), exc)
            return False
        return True

    def close(self) -> None:
        """Write all notes; accept no more. If it fails, the sweep writes them, and what follows a first one is done."""
        with self._lock:
            self._is_closed.set()
        self._has_notes.set()
        if self.notes:
            self._writer.use(
                lambda db: db.execute(f"PRAGMA busy_timeout={LAST_WAIT}")
            )  # a process that ends is not held up
            if not self._write_notes():
                notes = dict(self.notes)
                self._forget(notes)
                _follow(notes.values())


def write_note(db: sqlite3.Connection, task_id: str, attempt: int) -> bool:
    """Whether it was the row's first note."""
    if db.execute(_FIRST_NOTE, (attempt, task_id)).rowcount:
        return True
    db.execute(_LATER_NOTE, (attempt, task_id))
    return False


def _follow(firsts: Iterable[Note]) -> None:
    for note in firsts:
        try:
            note.when_first()
        except Exception:  # the change of this thread is committed, and the other notes have theirs to do
            _logger.exception("what follows the first note of a task failed")


def _fail(changes: list[_Change], exc: BaseException) -> None:
    for change in changes:
        change.is_done, change.result, change.error = True, None, exc
        if isinstance(exc, (sqlite3.Error, OSError)):
            change.error = unavailable(exc)
            change.error.__cause__ = exc
