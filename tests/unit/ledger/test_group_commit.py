"""Changes that share a transaction, notes that wait for one, and reads that wait for none."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import pytest

from support.example_rows import NOW, TASK_ID, row
from support.ledgers import changed
from traced_relay.errors import Unavailable
from traced_relay.ledger.protocol import Selection
from traced_relay.ledger.sqlite import SqliteLedger
from traced_relay.runtime.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLIENTS = 6
SOON = 10  # seconds


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


@pytest.fixture
def ledger(file: Path) -> Iterator[SqliteLedger]:
    opened = SqliteLedger(ManualClock(NOW), file)
    yield opened
    opened.close()


@contextmanager
def committing(ledger: SqliteLedger, waiting: int = 0) -> Iterator[None]:
    """A transaction is in progress inside; it ends when so many changes are *waiting*."""
    begun, over = Event(), Event()

    def work(_: sqlite3.Connection) -> None:
        begun.set()
        assert over.wait(SOON)

    thread = Thread(target=ledger._commits.write, args=(work,))
    thread.start()
    assert begun.wait(SOON)
    try:
        yield
        await_waiting(ledger, waiting)
    finally:
        over.set()
        thread.join(SOON)


def await_waiting(ledger: SqliteLedger, count: int) -> None:
    while len(ledger._commits._waiting) < count:
        Event().wait(0.001)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_changes_that_wait_share_one_transaction(ledger: SqliteLedger, file: Path) -> None:
    with ThreadPoolExecutor(CLIENTS) as pool:
        with committing(ledger, CLIENTS):
            before = ledger._commits._transactions
            asked = [pool.submit(ledger.insert, row(task_id=f"t{number}")) for number in range(CLIENTS)]
        assert [each.result(SOON) for each in asked] == [True] * CLIENTS
    assert ledger._commits._transactions == before + 2
    with closing(sqlite3.connect(file)) as other:
        assert other.execute("SELECT COUNT(*) FROM tasks").fetchone() == (CLIENTS,)


def test_a_change_that_fails_fails_alone(ledger: SqliteLedger) -> None:
    def fail(db: sqlite3.Connection) -> None:
        db.execute("DELETE FROM tasks")
        db.execute("INSERT INTO absent VALUES (1)")

    ledger.insert(row())
    with ThreadPoolExecutor(CLIENTS) as pool:
        with committing(ledger, CLIENTS):
            failed = pool.submit(ledger._commits.write, fail)
            asked = [pool.submit(ledger.insert, row(task_id=f"t{number}")) for number in range(CLIENTS - 1)]
        assert [each.result(SOON) for each in asked] == [True] * (CLIENTS - 1)
        with pytest.raises(Unavailable, match="no such table"):
            failed.result(SOON)
    assert len(ledger.select(Selection(), 100).rows) == CLIENTS


def deny_ends(db: sqlite3.Connection) -> None:
    """From now on no transaction on *db* ends, neither way."""

    def authorize(action: int, operation: str | None, *_: str | None) -> int:
        is_end = action == sqlite3.SQLITE_TRANSACTION and operation != "BEGIN"
        return sqlite3.SQLITE_DENY if is_end else sqlite3.SQLITE_OK

    db.set_authorizer(authorize)


def test_a_failed_rollback_commits_nothing_and_is_repeated(ledger: SqliteLedger, file: Path) -> None:
    with ThreadPoolExecutor(CLIENTS) as pool:
        with committing(ledger, CLIENTS):
            asked = [pool.submit(ledger._commits.write, deny_ends)]
            await_waiting(ledger, 1)
            asked += [pool.submit(ledger.insert, row(task_id=f"t{number}")) for number in range(CLIENTS - 1)]
        for each in asked:
            with pytest.raises(Unavailable, match="not authorized"):
                each.result(SOON)
    with pytest.raises(Unavailable, match="not authorized"):
        ledger.insert(row())
    assert ledger.get("t0") is None
    ledger._db.set_authorizer(None)
    assert ledger.get("t0") is None
    assert ledger.insert(row())
    with closing(sqlite3.connect(file)) as other:
        assert other.execute("SELECT task_id FROM tasks").fetchall() == [(TASK_ID,)]


def test_one_of_equal_changes_at_once_is_made(ledger: SqliteLedger) -> None:
    ledger.insert(row())
    with ThreadPoolExecutor(CLIENTS) as pool:
        with committing(ledger, CLIENTS):
            asked = [pool.submit(ledger.replace, changed(row(), actor=f"{number}")) for number in range(CLIENTS)]
        assert sorted(each.result(SOON) for each in asked) == [False] * (CLIENTS - 1) + [True]


def test_many_changes_at_once_are_all_made(ledger: SqliteLedger) -> None:
    def enqueue(client: int) -> None:
        for number in range(20):
            task_id = f"{client:x}{number:02}"
            assert ledger.insert(row(task_id=task_id))
            ledger.note_soon(task_id, 1, partial(noted.append, task_id))
            assert ledger.get(task_id) == row(task_id=task_id, noted_attempt=1)
            assert ledger.replace(changed(row(task_id=task_id), state="running", worker="w"))

    noted: list[str] = []
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(enqueue, range(CLIENTS)))
    ledger.abort("w", "a")
    assert sorted(noted) == sorted(f"{client:x}{number:02}" for client in range(CLIENTS) for number in range(20))
    assert ledger.tally(NOW).running == CLIENTS * 20


def test_no_read_waits_for_a_transaction(ledger: SqliteLedger) -> None:
    ledger.insert(row(state="running", worker="w1", next_attempt_at=None))
    ledger.keep_alive("w1", 15)
    with committing(ledger):
        found = ledger.get(TASK_ID)
        assert found is not None
        assert ledger.get_many([TASK_ID]).keys() == {TASK_ID}
        assert len(ledger.select(Selection(), 10).rows) == 1
        assert len(ledger.starting_with(TASK_ID[:4], 10)) == 1
        assert (ledger.overdue(NOW + 1, 10), ledger.abandoned(10)) == ([], [])
        assert (ledger.tally(NOW).running, ledger.heartbeats({"w1"})) == (1, {"w1": NOW})
        assert ledger.holder_of(found).value == "alive"


def test_a_reader_cannot_write(ledger: SqliteLedger) -> None:
    for readers in (ledger._reader, ledger._list_readers):
        with pytest.raises(Unavailable, match="readonly"):
            readers.read("DELETE FROM tasks")


@pytest.fixture
def noted(ledger: SqliteLedger, file: Path) -> Any:
    """How often `when_first` was called so far, and the note in the file."""
    calls: list[int] = []
    ledger.insert(row())

    def stored() -> int:
        with closing(sqlite3.connect(file)) as other:
            found: int = other.execute("SELECT noted_attempt FROM tasks").fetchone()[0]
            return found

    return calls, stored


def test_a_note_goes_with_the_next_change(ledger: SqliteLedger, noted: Any) -> None:
    calls, stored = noted
    with committing(ledger):
        ledger.note_soon(TASK_ID, 1, lambda: calls.append(1))
        assert (calls, stored()) == ([], 0)
        found = ledger.get(TASK_ID)
        assert found is not None
        assert found.noted_attempt == 1
    before = ledger._commits._transactions
    ledger.insert(row(task_id="next"))
    assert (calls, stored()) == ([1], 1)
    assert ledger._commits._transactions <= before + 2
    assert ledger.get(TASK_ID) == row(noted_attempt=1)


def test_a_note_that_no_change_takes_along_is_written_soon(ledger: SqliteLedger, noted: Any) -> None:
    _, stored = noted
    for attempt in (1, 2, 3):
        written = Event()
        ledger.note(f"other {attempt}", 1)
        ledger.insert(row(task_id=f"other {attempt}"))
        ledger.note_soon(f"other {attempt}", attempt, written.set)
        assert written.wait(SOON)
    assert stored() == 0


def test_what_follows_a_note_holds_up_no_other_change(ledger: SqliteLedger, noted: Any) -> None:
    calls, stored = noted
    begun, over = Event(), Event()

    def follow() -> None:
        begun.set()
        assert over.wait(SOON)
        calls.append(1)

    ledger.note_soon(TASK_ID, 1, follow)
    ledger.keep_alive("w", 15)  # a lease waits for no log
    assert begun.wait(SOON)
    assert ledger.insert(row(task_id="next"))
    assert (calls, stored()) == ([], 1)
    over.set()


def test_notes_are_written_at_the_latest_on_close(ledger: SqliteLedger, noted: Any) -> None:
    calls, stored = noted
    ledger.note_soon(TASK_ID, 1, lambda: calls.append(1))
    ledger.close()
    assert (calls, stored()) == ([1], 1)
    with pytest.raises(Unavailable, match="closed"):
        ledger.note_soon(TASK_ID, 2, lambda: calls.append(2))


def test_of_two_notes_of_a_task_one_is_the_first(ledger: SqliteLedger, file: Path, noted: Any) -> None:
    calls, stored = noted
    ledger.note_soon(TASK_ID, 2, lambda: calls.append(2))
    ledger.note_soon(TASK_ID, 1, lambda: calls.append(1))
    ledger.abort("w", "a")
    assert (calls, stored()) == ([2], 2)
    other = SqliteLedger(ManualClock(NOW), file)
    other.note_soon(TASK_ID, 3, lambda: calls.append(3))
    other.close()
    assert (calls, stored()) == ([2], 3)


def test_a_note_that_waits_protects_its_row(ledger: SqliteLedger, noted: Any) -> None:
    calls, _ = noted
    ledger.note_soon(TASK_ID, 1, lambda: calls.append(1))
    assert not ledger.remove(row())
    assert calls == [1]


def test_a_lease_that_leads_removes_no_noted_row(ledger: SqliteLedger, noted: Any) -> None:
    _, stored = noted
    written = Event()
    with ThreadPoolExecutor(2) as pool:
        with committing(ledger, 3):  # the lease, the removal and the thread that writes notes
            lease = pool.submit(ledger.keep_alive, "w", 15)
            await_waiting(ledger, 1)
            ledger.note_soon(TASK_ID, 1, written.set)
            removal = pool.submit(ledger.remove, row())
        assert lease.result(SOON) == []
        assert not removal.result(SOON)
    assert written.wait(SOON)
    assert stored() == 1


def fail() -> None:
    raise RuntimeError("s3cret of a task")


def test_what_follows_one_note_fails_alone(ledger: SqliteLedger, noted: Any, caplog: pytest.LogCaptureFixture) -> None:
    written = Event()
    ledger.insert(row(task_id="other"))
    with ThreadPoolExecutor(1) as pool:
        with committing(ledger, 1):
            ledger.note_soon(TASK_ID, 1, fail)
            ledger.note_soon("other", 1, written.set)
            asked = pool.submit(ledger.insert, row(task_id="next"))
        assert asked.result(SOON) is True
    assert written.wait(SOON)
    assert noted[1]() == 1
    [record] = [each for each in caplog.records if each.levelname == "ERROR"]
    assert record.getMessage() == "what follows the first note of a task failed"


def test_what_follows_one_note_fails_alone_on_close(ledger: SqliteLedger, file: Path, noted: Any) -> None:
    calls, stored = noted
    ledger._db.execute("PRAGMA busy_timeout=1")
    with locked(file):
        ledger.note_soon(TASK_ID, 1, fail)
        ledger.note_soon("other", 1, lambda: calls.append(1))
        ledger.close()
    assert (calls, stored()) == ([1], 0)


def test_notes_outlive_a_ledger_that_is_away(ledger: SqliteLedger, file: Path, noted: Any) -> None:
    calls, stored = noted
    ledger._db.execute("PRAGMA busy_timeout=1")
    written = Event()
    with locked(file):
        ledger.note_soon(TASK_ID, 1, written.set)
        with pytest.raises(Unavailable, match="locked"):
            ledger.insert(row(task_id="refused"))
        assert (written.is_set(), stored()) == (False, 0)
    assert written.wait(SOON)
    assert stored() == 1
    assert calls == []


def test_what_follows_a_first_note_is_done_even_if_it_fails(ledger: SqliteLedger, file: Path, noted: Any) -> None:
    calls, stored = noted
    ledger._db.execute("PRAGMA busy_timeout=1")
    with locked(file):
        ledger.note_soon(TASK_ID, 1, lambda: calls.append(1))
        ledger.close()
    assert (calls, stored()) == ([1], 0)
