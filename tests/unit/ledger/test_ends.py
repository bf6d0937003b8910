"""Ends and expiry of rows and their callbacks, in every ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support.example_rows import NOW, TASK_ID, call, row
from support.ledgers import RETENTION, changed
from traced_relay.ledger.protocol import Selection
from traced_relay.tasks.call import Callback

if TYPE_CHECKING:
    from traced_relay.ledger.protocol import Ledger
    from traced_relay.runtime.clock import ManualClock
    from traced_relay.tasks.row import Row

TOLD = call(callback=Callback(url="https://hooks.example.com/", on=("succeeded",)), body=b"x")
LARGE = call(callback=TOLD.callback, body=b"x" * 500_000)


def callback(**changes: Any) -> Row:
    return row(
        **{"task_id": "report", "kind": "callback", "queue": "callbacks", "callback_of": TASK_ID, "callback_round": 1}
        | changes
    )


def end(ledger: Ledger, **changes: Any) -> Row:
    """A call that has ended, and the row of its callback."""
    enqueued = row(**{"call": TOLD} | changes)
    ended = changed(enqueued, state="succeeded", finished_at=NOW + 1, next_attempt_at=None)
    assert ledger.insert(enqueued)
    assert ledger.replace(ended, callback=callback())
    return ended


def found(ledger: Ledger, task_id: str = TASK_ID) -> Row:
    there = ledger.get(task_id)
    assert there is not None
    return there


def test_an_end_and_its_callback_are_written_together(ledger: Ledger) -> None:
    ended = end(ledger)
    assert ledger.get(TASK_ID) == ended
    assert ledger.get("report") == callback()
    assert [listed.task_id for listed in ledger.select(Selection(kind="callback"), 5).rows] == ["report"]


def test_no_callback_is_written_if_its_end_is_not(ledger: Ledger) -> None:
    ledger.insert(row(call=TOLD))
    ledger.replace(changed(row(call=TOLD), state="running", worker="w1"))
    late = changed(row(call=TOLD), state="succeeded", finished_at=NOW + 1)
    assert not ledger.replace(late, callback=callback())
    assert ledger.get("report") is None
    assert ledger.tally(NOW).callbacks_pending == 0


def test_an_existing_callback_is_not_replaced(ledger: Ledger) -> None:
    ledger.insert(callback(attempt=7))
    end(ledger)
    assert found(ledger, "report") == callback(attempt=7)


def test_a_callbacks_end_is_written_to_its_call(ledger: Ledger) -> None:
    ended = end(ledger)
    over = changed(callback(), state="succeeded", finished_at=NOW + 5)
    assert ledger.replace(over)
    assert ledger.get(TASK_ID) == ended.changed(callback_ended_at=NOW + 5)
    assert not ledger.replace(over)
    again = changed(over, state="queued", finished_at=None)
    assert ledger.replace(again)
    assert ledger.get(TASK_ID) == ended


def test_an_earlier_rounds_callback_does_not_touch_the_call(ledger: Ledger) -> None:
    ended = end(ledger)
    redriven = changed(ended, round=2, state="queued", finished_at=None)
    assert ledger.replace(redriven)
    delivered = changed(callback(), state="succeeded", finished_at=NOW + 5)
    assert ledger.replace(delivered)
    assert ledger.get(TASK_ID) == redriven
    again = changed(redriven, state="succeeded", finished_at=NOW + 9)
    assert ledger.replace(again)
    assert ledger.replace(changed(delivered, state="queued", finished_at=None))
    assert ledger.get(TASK_ID) == again


def test_a_callback_without_its_call_still_ends(ledger: Ledger) -> None:
    ledger.insert(callback())
    assert ledger.replace(changed(callback(), state="failed", finished_at=NOW + 5))
    assert ledger.get(TASK_ID) is None


def test_a_row_is_deleted_when_it_expires_and_not_before(ledger: Ledger, clock: ManualClock) -> None:
    ended = changed(row(), state="failed", finished_at=NOW + 1, next_attempt_at=None)
    ledger.insert(row())
    ledger.insert(row(task_id="pending"))
    ledger.replace(ended)
    clock.advance(RETENTION)
    assert ledger.expire(10) == 0
    assert ledger.get(TASK_ID) == ended
    clock.advance(1)
    assert (ledger.expire(10), ledger.expire(10)) == (1, 0)
    assert ledger.get(TASK_ID) is None
    assert ledger.get("pending") is not None


@pytest.mark.parametrize("given", [TOLD, LARGE], ids=["small", "large"])
def test_a_row_is_kept_for_its_callback(ledger: Ledger, clock: ManualClock, given: Any) -> None:
    end(ledger, call=given)
    clock.advance(RETENTION + 1)
    assert ledger.expire(10) == 0
    over = changed(callback(), state="succeeded", finished_at=NOW + 50)
    ledger.replace(over)
    assert ledger.expire(10) == 0
    ledger.replace(changed(over, state="queued", finished_at=None))
    clock.advance(RETENTION)
    assert ledger.expire(10) == 0
    assert found(ledger).call == given
    ledger.replace(changed(changed(over), state="failed", finished_at=NOW + 60))
    assert ledger.expire(10) == 2
    assert (ledger.get(TASK_ID), ledger.get("report")) == (None, None)
    assert ledger.insert(row())
    assert ledger.get(TASK_ID) == row()


def test_a_row_that_runs_again_is_not_deleted(ledger: Ledger, clock: ManualClock) -> None:
    ended = changed(row(), state="failed", finished_at=NOW + 1)
    ledger.insert(row())
    ledger.replace(ended)
    ledger.replace(changed(ended, state="queued", finished_at=None, round=2))
    clock.advance(RETENTION + 10)
    assert ledger.expire(10) == 0


def test_expire_deletes_no_more_than_its_limit(ledger: Ledger, clock: ManualClock) -> None:
    for number in range(5):
        ledger.insert(row(task_id=f"t{number}"))
        ledger.replace(row(task_id=f"t{number}", state="cancelled", finished_at=NOW - number, revision=2))
    clock.advance(RETENTION)
    assert [ledger.expire(2) for _ in range(4)] == [2, 2, 1, 0]


def test_the_oldest_row_is_deleted_first(ledger: Ledger, clock: ManualClock) -> None:
    for number in range(3):
        ledger.insert(row(task_id=f"t{number}"))
        ledger.replace(row(task_id=f"t{number}", state="cancelled", finished_at=NOW - number, revision=2))
    clock.advance(RETENTION)
    assert ledger.expire(1) == 1
    assert sorted(ledger.get_many(["t0", "t1", "t2"])) == ["t0", "t1"]
