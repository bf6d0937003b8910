from __future__ import annotations

import resource
import sqlite3
from contextlib import closing, contextmanager
from threading import Barrier, Thread
from typing import TYPE_CHECKING, Any

import pytest

from example_rows import NOW, TASK_ID, call, policy, row
from traced_relay.calls import Callback
from traced_relay.clock import ManualClock
from traced_relay.errors import Unavailable
from traced_relay.ledger import Selection
from traced_relay.rows import Attempt, Response, Row
from traced_relay.sqlite_ledger import SqliteLedger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ATTEMPT = Attempt(
    attempt=1,
    round=1,
    task_name=f"{TASK_ID}-1",
    span_id="00f067aa0ba902b7",
    version="v7",
    instance="i-1",
    started_at=NOW + 0.123456,
    ended_at=NOW + 1,
    queue_delay_ms=3,
    latency_ms=876,
    status_code=503,
    verdict="retry",
    reason="http_503",
    blame="downstream",
    retry_delay_ms=1500,
    delay_reason="retry_after",
)
FULL = row(
    kind="callback",
    call=call(
        method="PUT",
        headers={"content-type": "text/plain", "x": ""},
        body=bytes(range(256)),
        retry=policy(max_attempts=7, min_backoff="0.1s", retryable_status_codes=[500]),
        idempotent=True,
        labels={"team": "billing", "é😀": ""},
        callback=Callback(url="https://hooks.example.com/", on=("failed",)),
    ),
    rule=None,
    fingerprint="f" * 64,
    adopted_task_name="projects/p/locations/l/queues/q/tasks/t",
    sampled=False,
    state="running",
    round=2,
    next_attempt_at=None,
    finished_at=NOW + 3,
    first_started_at=NOW + 0.1,
    attempt=1,
    started=1,
    interruptions=1,
    worker="w1",
    reason="http_503",
    blame="downstream",
    attempts=(ATTEMPT,),
    response=Response(status_code=503, headers={"x": "ÿ\x7f"}, body=b"\xff\x00", truncated=True),
    revision=4,
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def ledger(clock: ManualClock) -> Iterator[SqliteLedger]:
    opened = SqliteLedger(clock)
    yield opened
    opened.close()


@contextmanager
def opened(clock: ManualClock, file: Path) -> Iterator[SqliteLedger]:
    ledger = SqliteLedger(clock, file)
    try:
        yield ledger
    finally:
        ledger.close()


def changed(before: Row, **changes: Any) -> Row:
    return before.model_copy(update={**changes, "revision": before.revision + 1})


def write(ledger: SqliteLedger, full: Row) -> None:
    """As it comes about: enqueued, and changed once there is an answer."""
    assert ledger.insert(full.model_copy(update={"response": None, "revision": full.revision - 1}))
    assert ledger.replace(full)


def test_a_row_comes_back_as_it_was_written(ledger: SqliteLedger) -> None:
    assert ledger.insert(row(call=FULL.call))
    assert ledger.get(TASK_ID) == row(call=FULL.call)


def test_a_row_survives_the_process(clock: ManualClock, tmp_path: Path) -> None:
    with opened(clock, tmp_path / "ledger") as before:
        write(before, FULL)
    with opened(clock, tmp_path / "ledger") as after:
        assert after.get(TASK_ID) == FULL


def test_what_is_not_there_is_none(ledger: SqliteLedger) -> None:
    assert ledger.get(TASK_ID) is None
    assert ledger.get("") is None


def test_a_task_is_written_once(ledger: SqliteLedger) -> None:
    assert ledger.insert(row())
    assert not ledger.insert(row(queue="other", call=call(labels={"a": "b"})))
    assert ledger.get(TASK_ID) == row()
    assert ledger.select(Selection(label=("a", "b")), 10) == []


def test_a_change_is_written_over_the_revision_before_it_and_no_other(ledger: SqliteLedger) -> None:
    ledger.insert(row())
    first = changed(
        row(), state="running", attempts=(ATTEMPT,), response=Response(status_code=200, headers={}, body=b"x")
    )
    assert ledger.replace(first)
    assert not ledger.replace(changed(row(), state="cancelled"))
    assert not ledger.replace(first)
    assert not ledger.replace(changed(changed(first)))
    assert ledger.get(TASK_ID) == first
    second = changed(first, state="failed", response=None)
    assert ledger.replace(second)
    assert ledger.get(TASK_ID) == second


@pytest.mark.parametrize("body", [b"", b"longer than before", b"x"])
def test_an_answer_takes_the_place_of_the_one_before_it(ledger: SqliteLedger, body: bytes) -> None:
    write(ledger, FULL)
    answered = changed(FULL, response=Response(status_code=200, headers={}, body=body))
    assert ledger.replace(answered)
    assert ledger.get(TASK_ID) == answered


def test_a_row_that_is_not_there_cannot_be_changed(ledger: SqliteLedger) -> None:
    assert not ledger.replace(changed(row()))
    assert ledger.get(TASK_ID) is None


def test_of_two_processes_that_change_one_row_one_wins(clock: ManualClock, tmp_path: Path) -> None:
    with opened(clock, tmp_path / "ledger") as one, opened(clock, tmp_path / "ledger") as other:
        one.insert(row())
        start, won = Barrier(2), []

        def change(ledger: SqliteLedger, worker: str) -> None:
            start.wait(5)
            if ledger.replace(changed(row(), worker=worker)):
                won.append(worker)

        threads = [Thread(target=change, args=(one, "w1")), Thread(target=change, args=(other, "w2"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(won) == 1
        found = one.get(TASK_ID)
        assert found is not None
        assert found.worker == won[0]
        assert other.get(TASK_ID) == found


def test_a_note_is_in_nobodys_way_and_never_goes_back(ledger: SqliteLedger) -> None:
    ledger.insert(row())
    for attempt in (1, 3, 2):
        ledger.note(TASK_ID, attempt)
    assert ledger.get(TASK_ID) == row(noted_attempt=3)
    assert ledger.replace(changed(row(), state="running"))
    assert ledger.get(TASK_ID) == row(state="running", noted_attempt=3, revision=2)
    ledger.note("unknown", 1)


def test_a_row_is_removed_unless_it_has_changed(ledger: SqliteLedger) -> None:
    ledger.insert(row(call=call(labels={"a": "b"})))
    ledger.replace(changed(row(call=call(labels={"a": "b"}))))
    assert not ledger.remove(row())
    assert ledger.remove(row(revision=2))
    assert not ledger.remove(row(revision=2))
    assert ledger.get(TASK_ID) is None
    assert ledger.insert(row(call=call(labels={"a": "c"})))
    assert ledger.select(Selection(label=("a", "b")), 10) == []


def test_a_row_whose_task_is_known_to_be_there_is_not_removed(ledger: SqliteLedger) -> None:
    ledger.insert(row())
    ledger.note(TASK_ID, 1)
    assert not ledger.remove(row())
    assert not ledger.remove(row(noted_attempt=1))
    assert ledger.get(TASK_ID) == row(noted_attempt=1)


def test_a_large_body_is_written_once(clock: ManualClock, tmp_path: Path) -> None:
    large = call(body=b"x" * 800_000)
    answer = Response(status_code=503, headers={}, body=b"y" * 60_000)
    with opened(clock, tmp_path / "ledger") as ledger:
        ledger.insert(row(call=large))
        ledger.replace(changed(row(call=large), response=answer))
        before = (tmp_path / "ledger-wal").stat().st_size
        now = ledger.get(TASK_ID)
        for attempt in range(1, 6):
            assert now is not None
            assert ledger.replace(changed(now, attempt=attempt))
            ledger.note(TASK_ID, attempt)
            now = ledger.get(TASK_ID)
        assert now == row(call=large, response=answer, attempt=5, noted_attempt=5, revision=7)
        assert before > 860_000
        assert (tmp_path / "ledger-wal").stat().st_size - before < 200_000


def test_a_list_has_rows_without_bodies(ledger: SqliteLedger) -> None:
    write(ledger, FULL)
    ledger.note(TASK_ID, 2)
    [found] = ledger.select(Selection(kind="callback"), 1)
    answer = FULL.response
    assert answer is not None
    bodiless = {"call": FULL.call.model_copy(update={"body": b""}), "response": answer.model_copy(update={"body": b""})}
    assert found == FULL.model_copy(update={**bodiless, "noted_attempt": 2})


def test_a_closed_ledger_is_unavailable(clock: ManualClock) -> None:
    ledger = SqliteLedger(clock)
    ledger.close()
    for ask in (
        lambda: ledger.get(TASK_ID),
        lambda: ledger.insert(row()),
        lambda: ledger.select(Selection(), 1),
        lambda: ledger.remove(row()),
        lambda: ledger.keep_alive("w1", 15),
        lambda: ledger.stop("w1", []),
        lambda: ledger.holder_of(row()),
        lambda: ledger.heartbeats(),
    ):
        with pytest.raises(Unavailable, match="the ledger cannot be used"):
            ask()


def test_a_place_that_holds_no_ledger_is_unavailable(clock: ManualClock, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, and long enough to be looked at " * 100)
    for place in (tmp_path, tmp_path / "missing" / "ledger", tmp_path / "text"):
        with pytest.raises(Unavailable, match="the ledger cannot be used"):
            SqliteLedger(clock, place)


def rewrite(file: Path, statement: str, *values: str) -> None:
    with closing(sqlite3.connect(file)) as raw, raw:
        raw.execute(statement, values)


def test_what_another_version_added_to_a_row_is_left_aside(clock: ManualClock, tmp_path: Path) -> None:
    added = ("$.colour", "$.call.colour", "$.call.retry.colour", "$.call.callback.colour", "$.response.colour")
    with opened(clock, tmp_path / "ledger") as ledger:
        write(ledger, FULL)
        for place in (*added, "$.attempts[0].colour"):
            rewrite(tmp_path / "ledger", "UPDATE tasks SET document = json_set(document, ?, 'red')", place)
        assert ledger.get(TASK_ID) == FULL
        assert len(ledger.select(Selection(kind="callback"), 1)) == 1
        assert ledger.replace(changed(FULL))


def test_a_row_that_cannot_be_read_is_unavailable_and_not_guessed_at(clock: ManualClock, tmp_path: Path) -> None:
    with opened(clock, tmp_path / "ledger") as ledger:
        ledger.insert(row())
        rewrite(tmp_path / "ledger", "UPDATE tasks SET document = json_set(document, '$.state', 'dreaming')")
        with pytest.raises(Unavailable, match="cannot read: 1 problems"):
            ledger.get(TASK_ID)


def test_a_ledger_that_a_later_version_has_changed_is_unavailable(clock: ManualClock, tmp_path: Path) -> None:
    with opened(clock, tmp_path / "ledger") as ledger:
        ledger.insert(row())
    for version in (1, 0):
        rewrite(tmp_path / "ledger", f"PRAGMA user_version={version}")
        with opened(clock, tmp_path / "ledger") as ledger:
            assert ledger.get(TASK_ID) == row()
    rewrite(tmp_path / "ledger", "PRAGMA user_version=2")
    with pytest.raises(Unavailable, match="the ledger is of version 2, this relay knows 1"):
        SqliteLedger(clock, tmp_path / "ledger")


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process grows past 64 KiB; the kernel says so as it would of a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_on_a_full_disk_nothing_is_half_made_and_later_all_is_well(clock: ManualClock, tmp_path: Path) -> None:
    large = call(body=b"x" * 500_000, labels={"a": "b"})
    with opened(clock, tmp_path / "ledger") as ledger:
        ledger.insert(row(task_id="before"))
        with full_disk():
            for _ in range(2):
                with pytest.raises(Unavailable, match="the ledger cannot be used"):
                    ledger.insert(row(call=large))
        assert ledger.get(TASK_ID) is None
        assert ledger.select(Selection(label=("a", "b")), 1) == []
        assert ledger.insert(row(call=large))
        assert ledger.get(TASK_ID) == row(call=large)
        assert ledger.get("before") is not None
