from __future__ import annotations

import io
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from example_rows import NOW, SUCCESS, TASK_ID, call, row
from traced_relay import machine
from traced_relay.callbacks import Teller, callback_id
from traced_relay.calls import Callback
from traced_relay.clock import SystemClock
from traced_relay.cloud_tasks import CloudTasks
from traced_relay.documents import Links
from traced_relay.errors import Unavailable
from traced_relay.journal import Journal
from traced_relay.logs import Identity, Log, RecordStore
from traced_relay.machine import Dispatched, Holder, Step
from traced_relay.relay_file import Worker
from traced_relay.rows import Response
from traced_relay.sqlite_ledger import SqliteLedger
from traced_relay.steps import Changed, Steps

if TYPE_CHECKING:
    from collections.abc import Iterator
    from threading import Condition

    from traced_relay.rows import Row

DISPATCH = Dispatched(1, "w", f"{TASK_ID}-1", "v", "i", 0)


class HastyClock(SystemClock):
    def wait(self, condition: Condition, seconds: float | None) -> None:
        """Return early, as any wait may."""


class Forgetful(SqliteLedger):
    """Writes, and then its answer is lost as often as it is told to; or it does not even come to write."""

    answers_lost = 0
    requests_lost = 0

    def replace(self, row: Row, **more: Any) -> bool:
        if self.requests_lost:
            self.requests_lost -= 1
            raise Unavailable("the request was lost")
        is_done = super().replace(row, **more)
        if self.answers_lost:
            self.answers_lost -= 1
            raise Unavailable("the answer was lost")
        return is_done


@pytest.fixture
def ledger() -> Iterator[Forgetful]:
    with closing(Forgetful(SystemClock())) as opened:
        yield opened


@pytest.fixture
def records() -> RecordStore:
    return RecordStore()


@pytest.fixture
def steps(ledger: Forgetful, records: RecordStore) -> Iterator[Steps]:
    clock = HastyClock()
    log = Log(Identity("p", "v", "i"), stream=io.StringIO(), store=records, clock=clock)
    tasks = CloudTasks(
        project="p", location="l", worker=Worker(app_engine="default"), audience=None, emulator="127.0.0.1:1"
    )
    teller = Teller("relay-callbacks", 5.0, lambda origin: Links(origin, "p", None))
    with closing(tasks):
        yield Steps(ledger=ledger, cloud_tasks=tasks, journal=Journal(log, "q"), clock=clock, teller=teller)


def begun(before: Row) -> Step:
    return machine.arrive(before, DISPATCH, now=NOW + 1, holder=Holder.LOST, random=lambda: 0.5)


def ended(before: Row, at: float = NOW + 2) -> Step:
    answer = Response(status_code=200, headers={}, body=b"done")
    return machine.end(before, SUCCESS, response=answer, now=at, random=lambda: 0.5)


def said(records: RecordStore) -> list[str]:
    return [record["event"] for record in records.records()]


def test_a_change_whose_answer_was_lost_is_found_written_and_said_once(
    ledger: Forgetful, steps: Steps, records: RecordStore
) -> None:
    before = row(call=call(callback=Callback(url="https://hooks.example.com/")))
    ledger.insert(before)
    ledger.answers_lost = 1
    running = steps.commit(begun(before), before)
    ledger.note(TASK_ID, 1)  # changes beside the row
    ledger.answers_lost = 2
    after = steps.commit(ended(running), running, patience=5.0)
    assert ledger.get(TASK_ID) == after.model_copy(update={"noted_attempt": 1})
    assert said(records) == ["attempt.started", "attempt.finished", "task.finished"]
    assert ledger.get(callback_id(TASK_ID, 1)) is not None


def test_a_change_that_was_not_written_is_written_when_the_ledger_is_asked_again(
    ledger: Forgetful, steps: Steps, records: RecordStore
) -> None:
    ledger.insert(row())
    ledger.requests_lost = 1
    assert steps.commit(begun(row()), row()) == ledger.get(TASK_ID)
    assert said(records) == ["attempt.started"]


def test_a_change_that_somebody_else_has_made_meanwhile_is_not_taken_for_ones_own(
    ledger: Forgetful, steps: Steps, records: RecordStore
) -> None:
    ledger.insert(row())
    running = steps.commit(begun(row()), row())
    lost = machine.lose(running, Holder.LOST, now=NOW + 3, random=lambda: 0.5).row
    assert lost is not None
    assert ledger.replace(lost)
    ledger.requests_lost = 1
    with pytest.raises(Changed):
        steps.commit(ended(running), running)
    assert ledger.get(TASK_ID) == lost
    assert said(records) == ["attempt.started"]


def test_a_ledger_that_stays_away_is_asked_twice_and_no_more_without_patience(
    ledger: Forgetful, steps: Steps, records: RecordStore
) -> None:
    ledger.insert(row())
    ledger.requests_lost = 3
    with pytest.raises(Unavailable):
        steps.commit(begun(row()), row())
    assert (ledger.requests_lost, said(records)) == (1, [])
