"""Rows in every ledger, also shared by several processes."""

from __future__ import annotations

from threading import Barrier, Thread
from typing import TYPE_CHECKING

import pytest

from support.example_rows import ATTEMPT, FULL, TASK_ID, call, row
from support.ledgers import changed, write
from traced_relay.errors import Unavailable
from traced_relay.ledger.protocol import Selection
from traced_relay.tasks.row import Response

if TYPE_CHECKING:
    from support.ledgers import Store
    from traced_relay.ledger.protocol import Ledger

STRANGE = ("", ".", "..", "a/b", "/", "__id__", "x" * 2000, "a\0b", "é")


def test_a_row_comes_back_as_it_was_written(ledger: Ledger) -> None:
    assert ledger.insert(row(call=FULL.call))
    assert ledger.get(TASK_ID) == row(call=FULL.call)


def test_a_missing_row_is_none(ledger: Ledger) -> None:
    assert ledger.get(TASK_ID) is None
    assert ledger.get("") is None


def test_a_task_is_written_once(ledger: Ledger) -> None:
    assert ledger.insert(row())
    assert not ledger.insert(row(queue="other", call=call(labels={"a": "b"})))
    assert ledger.get(TASK_ID) == row()
    assert ledger.select(Selection(label=("a", "b")), 10).rows == []


def test_a_change_replaces_only_the_revision_before_it(ledger: Ledger) -> None:
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
def test_a_response_replaces_the_one_before_it(ledger: Ledger, body: bytes) -> None:
    write(ledger, FULL)
    answered = changed(FULL, response=Response(status_code=200, headers={}, body=body))
    assert ledger.replace(answered)
    assert ledger.get(TASK_ID) == answered


def test_a_missing_row_cannot_be_changed(ledger: Ledger) -> None:
    assert not ledger.replace(changed(row()))
    assert ledger.get(TASK_ID) is None


def test_a_note_conflicts_with_nothing_and_never_decreases(ledger: Ledger) -> None:
    ledger.insert(row())
    assert [ledger.note(TASK_ID, attempt) for attempt in (2, 3, 2, 1)] == [True, False, False, False]
    assert ledger.get(TASK_ID) == row(noted_attempt=3)
    assert ledger.replace(changed(row(), state="running"))
    assert ledger.get(TASK_ID) == row(state="running", noted_attempt=3, revision=2)
    assert not ledger.note("unknown", 1)
    ledger.insert(row(task_id="adopted", noted_attempt=1))
    assert not ledger.note("adopted", 2)


def test_a_row_is_removed_unless_it_has_changed(ledger: Ledger) -> None:
    ledger.insert(row(call=call(labels={"a": "b"})))
    ledger.replace(changed(row(call=call(labels={"a": "b"}))))
    assert not ledger.remove(row())
    assert ledger.remove(row(revision=2))
    assert not ledger.remove(row(revision=2))
    assert ledger.get(TASK_ID) is None
    assert ledger.insert(row(call=call(labels={"a": "c"})))
    assert ledger.select(Selection(label=("a", "b")), 10).rows == []


def test_a_row_with_a_noted_task_is_not_removed(ledger: Ledger) -> None:
    ledger.insert(row())
    ledger.note(TASK_ID, 1)
    assert not ledger.remove(row())
    assert not ledger.remove(row(noted_attempt=1))
    assert ledger.get(TASK_ID) == row(noted_attempt=1)


def test_a_list_has_rows_without_bodies(ledger: Ledger) -> None:
    write(ledger, FULL)
    ledger.note(TASK_ID, 2)
    [found] = ledger.select(Selection(kind="callback"), 1).rows
    answer = FULL.response
    assert answer is not None
    bodiless = {"call": FULL.call.changed(body=b""), "response": answer.changed(body=b"")}
    assert found == FULL.changed(**bodiless, noted_attempt=2)


def test_a_row_survives_the_process(store: Store) -> None:
    before = store.open()
    write(before, FULL)
    before.close()
    assert store.open().get(TASK_ID) == FULL


@pytest.mark.parametrize("size", [0, 1, 399_999, 400_001, 900_000])
def test_a_body_of_any_size_stays_with_its_row(ledger: Ledger, size: int) -> None:
    large = row(call=call(body=b"x" * size))
    answer = Response(status_code=503, headers={}, body=b"y" * 65_536)
    assert ledger.insert(large)
    assert ledger.get(TASK_ID) == large
    running = changed(large, state="running", response=answer)
    assert ledger.replace(running)
    assert ledger.get(TASK_ID) == running
    assert ledger.remove(running)
    assert ledger.insert(row())
    assert ledger.get(TASK_ID) == row()


def test_a_name_that_no_row_can_have_finds_none(ledger: Ledger) -> None:
    ledger.insert(row())
    for name in STRANGE:
        assert ledger.get(name) is None
        ledger.note(name, 1)
        ledger.abort(name, TASK_ID)
        assert not ledger.replace(changed(row(task_id=name)))
    assert ledger.get_many([*STRANGE, TASK_ID]) == {TASK_ID: row()}


def test_get_many_returns_rows_without_bodies(ledger: Ledger) -> None:
    for task_id in ("a", "b", "c"):
        ledger.insert(row(task_id=task_id, call=call(body=b"x")))
    ledger.note("a", 2)
    assert ledger.get_many([]) == {}
    assert ledger.get_many(["a", "missing", "c"]) == {"a": row(task_id="a", noted_attempt=2), "c": row(task_id="c")}


@pytest.mark.parametrize("round_", range(3))
def test_one_of_two_processes_changes_a_row(store: Store, round_: int) -> None:
    ledgers = {name: store.open() for name in ("w1", "w2", "w3")}
    ledgers["w1"].insert(row())
    for ledger in ledgers.values():
        ledger.get(TASK_ID)
    start, won = Barrier(len(ledgers)), []

    def change(worker: str) -> None:
        start.wait(5)
        if ledgers[worker].replace(changed(row(), worker=worker)):
            won.append(worker)

    threads = [Thread(target=change, args=(worker,)) for worker in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(won) == 1
    assert [ledger.get(TASK_ID) for ledger in ledgers.values()] == [changed(row(), worker=won[0])] * 3


def test_notes_never_conflict_with_a_change(store: Store) -> None:
    one, other = store.open(), store.open()
    one.insert(row())
    noting = Thread(target=lambda: [other.note(TASK_ID, attempt) for attempt in range(1, 21)])
    noting.start()
    now = row()
    for attempt in range(10):
        now = changed(now, attempt=attempt)
        assert one.replace(now)
    noting.join(20)
    assert one.get(TASK_ID) == now.changed(noted_attempt=20)


def test_a_closed_ledger_is_unavailable(ledger: Ledger) -> None:
    ledger.insert(row())
    ledger.close()
    for ask in (
        lambda: ledger.get(TASK_ID),
        lambda: ledger.get_many([TASK_ID]),
        lambda: ledger.insert(row()),
        lambda: ledger.replace(changed(row())),
        lambda: ledger.note(TASK_ID, 1),
        lambda: ledger.select(Selection(), 1).rows,
        lambda: ledger.overdue(0, 1),
        lambda: ledger.abandoned(1),
        lambda: ledger.tally(0),
        lambda: ledger.expire(1),
        lambda: ledger.remove(row()),
        lambda: ledger.keep_alive("w1", 15),
        lambda: ledger.abort("w1", TASK_ID),
        lambda: ledger.stop("w1", []),
        lambda: ledger.holder_of(row()),
        lambda: ledger.heartbeats({"w1"}),
    ):
        with pytest.raises(Unavailable, match="the ledger cannot be used"):
            ask()
    ledger.close()
