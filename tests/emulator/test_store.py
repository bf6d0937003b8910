import sqlite3
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from threading import Event, Thread

import pytest

from support.rig import HTTP, QUEUE
from traced_relay.emulator import messages as m
from traced_relay.emulator.changes import (
    AddTombstone,
    Change,
    DropPurge,
    DropQueue,
    DropTask,
    ExpireTombstones,
    PutPurge,
    PutQueue,
    PutTask,
    SaveProgress,
    StoredState,
)
from traced_relay.emulator.state import Progress
from traced_relay.emulator.store import Commit, Store
from traced_relay.errors import InvalidSettings

NOTHING = StoredState([], [], [], [])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = Store(path)
    yield opened
    opened.close()


def queue(name: str = QUEUE) -> m.Queue:
    return m.Queue(name=name, state=m.RUNNING)


def task(name: str) -> m.Task:
    return m.Task(name=f"{QUEUE}/tasks/{name}", http_request=HTTP)


def kept_by(path: Path, *changes: Change) -> StoredState:
    """What a store that was given *changes* finds when it is opened again."""
    store = Store(path)
    commit = store.write(changes)
    assert commit is not None
    commit.result()
    store.close()
    again = Store(path)
    kept = again.load()
    again.close()
    return kept


def test_a_new_store_is_empty(store: Store) -> None:
    assert store.load() == NOTHING


def test_written_state_is_loaded(path: Path) -> None:
    progress = astuple(Progress(12.5, dispatch_count=2, previous_response=503, retry_reason="App Error"))

    assert kept_by(
        path,
        PutQueue(queue()),
        PutTask(1, task("a"), is_named=True),
        PutTask(2, task("b"), is_named=False),
        SaveProgress(2, progress),
        AddTombstone("late", 20.0),
        AddTombstone("early", 10.0),
    ) == StoredState(
        queues=[queue()],
        tasks=[(1, task("a"), True, None), (2, task("b"), False, progress)],
        task_names=[("early", 10.0), ("late", 20.0)],
        queue_names=[],
    )


def test_dropped_state_is_gone(path: Path) -> None:
    assert kept_by(
        path,
        PutQueue(queue("one")),
        PutQueue(queue("two")),
        DropQueue("one", 30.0),
        PutTask(1, task("a"), is_named=True),
        DropTask(1),
        AddTombstone("a", 10.0),
        AddTombstone("b", 20.0),
        ExpireTombstones(10.0),
    ) == StoredState([queue("two")], [], [("b", 20.0)], [("one", 30.0)])


def test_the_last_purge_of_a_queue_is_kept_until_its_own_end(path: Path) -> None:
    assert kept_by(path, PutPurge("q", 5, 10.0), PutPurge("q", 9, None), DropPurge("q", 5)).purges == (
        PutPurge("q", 9, None),
    )
    assert kept_by(path, DropPurge("q", 9)) == NOTHING


def test_a_task_put_progressed_and_dropped_at_once_is_gone(path: Path) -> None:
    progress = astuple(Progress(12.5))

    assert kept_by(path, PutTask(1, task("a"), is_named=True), SaveProgress(1, progress), DropTask(1)) == NOTHING


def test_changes_that_nothing_waits_for_are_written_too(store: Store) -> None:
    commit = store.write([AddTombstone("a", 10.0)], is_awaited=False)
    assert commit is not None
    commit.result(10)

    assert store.load().task_names == [("a", 10.0)]


def test_a_queue_that_was_configured_again_is_kept_once(path: Path) -> None:
    paused = m.Queue(name=QUEUE, state=m.PAUSED)

    assert kept_by(path, PutQueue(queue()), PutQueue(paused)).queues == [paused]


def test_changes_of_many_calls_keep_their_order(path: Path) -> None:
    store = Store(path)
    for serial in range(1, 501):
        store.write([PutTask(serial, task(str(serial)), is_named=True)])
        store.write([DropTask(serial - 1)])
    store.close()

    again = Store(path)
    assert [serial for serial, *_ in again.load().tasks] == [500]
    again.close()


class SlowTask:
    """A message that takes its time to be written."""

    def __init__(self) -> None:
        self.is_being_written, self.go_on = Event(), Event()

    def SerializeToString(self) -> bytes:  # noqa: N802
        self.is_being_written.set()
        assert self.go_on.wait(10)
        return b""


def test_without_changes_write_returns_the_running_commit(store: Store) -> None:
    slow = SlowTask()
    commit = store.write([PutTask(1, slow, is_named=True)])  # type: ignore[arg-type]
    assert slow.is_being_written.wait(10)

    assert store.write([]) is commit
    later = store.write([DropTask(1)])
    assert later is not commit
    assert store.write([]) is later
    slow.go_on.set()
    assert later is not None
    later.result()


def test_without_changes_and_commits_write_returns_none(store: Store) -> None:
    assert store.write([]) is None


def failure(commit: Commit | None) -> sqlite3.Error:
    assert commit is not None
    with pytest.raises(sqlite3.Error) as failed:
        commit.result()
    return failed.value


def give_room(store: Store, pages: int) -> None:
    """Let the file grow to so many pages: the disk is full there, as SQLite knows it."""
    store._connection.execute(f"PRAGMA max_page_count={pages}")


def test_after_a_failed_commit_its_changes_come_first(path: Path) -> None:
    store = Store(path)
    give_room(store, 1)
    large = m.Task(name=f"{QUEUE}/tasks/large", http_request={**HTTP, "body": b"x" * 500_000})
    refused = store.write([PutTask(1, large, is_named=True)])
    assert "database or disk is full" in str(failure(refused))
    assert store.load() == NOTHING

    later = store.write([AddTombstone("small", 10.0)])
    assert "database or disk is full" in str(failure(later))
    assert store.load() == NOTHING
    assert store.write([]) not in (None, refused, later)

    give_room(store, 10_000)
    last = store.write([DropTask(2)])
    assert last is not None
    last.result()
    assert store.load() == StoredState([], [(1, large, True, None)], [("small", 10.0)], [])
    assert store.write([]) is None
    store.close()


class BrokenTask(SlowTask):
    """One that cannot be written in the end."""

    def SerializeToString(self) -> bytes:  # noqa: N802
        super().SerializeToString()
        raise sqlite3.OperationalError("disk I/O error")


def test_close_ends_waits_while_the_disk_fails(path: Path) -> None:
    store, broken = Store(path), BrokenTask()
    writing = store.write([PutTask(1, broken, is_named=True)])  # type: ignore[arg-type]
    assert broken.is_being_written.wait(10)
    waiting = store.write([AddTombstone("a", 10.0)])
    closing = Thread(target=store.close)
    closing.start()
    while store.write([]) is waiting:
        assert closing.is_alive()
    broken.go_on.set()
    assert [str(failure(commit)) for commit in (writing, waiting)] == ["disk I/O error"] * 2
    closing.join(10)
    assert not closing.is_alive()


def test_a_closed_store_raises_at_once(path: Path) -> None:
    store = Store(path)
    store.close()

    commit = store.write([PutQueue(queue())])
    assert commit is not None
    with pytest.raises(sqlite3.ProgrammingError, match="the store is closed"):
        commit.result()


def test_one_file_belongs_to_one_process(store: Store, path: Path) -> None:
    store.load()
    with pytest.raises(InvalidSettings, match=r"queue\.db: database is locked; is another process using it\?"):
        Store(path)


def test_a_file_that_is_no_queue_is_refused(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to be looked at as one" * 100)

    with pytest.raises(InvalidSettings, match="file is not a database"):
        Store(path)


def test_a_path_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="cannot be created: No such file or directory"):
        Store(tmp_path / "missing" / "queue.db")


def test_a_secret_survives_the_process(path: Path) -> None:
    store = Store(path)
    assert store.secret("signing-key") is None
    store.save_secret("signing-key", b"pem")
    store.close()

    again = Store(path)
    assert again.secret("signing-key") == b"pem"
    again.close()


def test_every_commit_reaches_the_disk_before_it_is_done(store: Store) -> None:
    settings = {
        name: store._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
    }

    assert settings == {"journal_mode": "wal", "synchronous": 2}
