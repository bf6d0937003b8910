from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from support.example_rows import NOW, SUCCESS, TASK_ID, row
from traced_relay.cloud_tasks.client import CloudTasks
from traced_relay.config.relay_yaml import TaskTarget
from traced_relay.errors import Unavailable
from traced_relay.ledger.sqlite import SqliteLedger
from traced_relay.logs.store import RecordStore
from traced_relay.logs.writer import Identity, Log
from traced_relay.relay.commit import RowChanged, StepApplier
from traced_relay.relay.task_log import TaskLog
from traced_relay.runtime.clock import ManualClock, SystemClock
from traced_relay.tasks.callback import CallbackBuilder
from traced_relay.tasks.state_machine import Dispatched, Holder, Step, arrive, cancel, end
from traced_relay.tasks.status_document import Links

if TYPE_CHECKING:
    from collections.abc import Iterator
    from threading import Condition

    from traced_relay.tasks.row import Row


class HastyClock(SystemClock):
    def wait(self, condition: Condition, seconds: float | None) -> None:
        """Return early, as any wait may."""


class AnswerLost(SqliteLedger):
    """A ledger on the other side of a network: it does what it is asked, and the answer gets lost."""

    lost = 0

    def replace(self, row: Row, *, callback: Row | None = None) -> bool:
        done = super().replace(row, callback=callback)
        if self.lost:
            self.lost -= 1
            raise Unavailable("no answer")
        return done


@pytest.fixture
def ledger() -> Iterator[AnswerLost]:
    opened = AnswerLost(ManualClock(NOW))
    yield opened
    opened.close()


@pytest.fixture
def records() -> RecordStore:
    return RecordStore()


@pytest.fixture
def steps(ledger: AnswerLost, records: RecordStore) -> Iterator[StepApplier]:
    task_log = TaskLog(Log(Identity("p", "v", "i"), stream=io.StringIO(), store=records), "queues")
    tasks = CloudTasks(
        queue_prefix="projects/p/locations/l/queues",
        worker=TaskTarget(app_engine="default"),
        audience=None,
        emulator="127.0.0.1:9",
    )
    callback_builder = CallbackBuilder("callbacks", 5.0, lambda origin: Links(origin, "p"))
    yield StepApplier(
        ledger=ledger, cloud_tasks=tasks, task_log=task_log, clock=HastyClock(), callback_builder=callback_builder
    )
    tasks.close()


def ending(ledger: AnswerLost) -> tuple[Row, Step]:
    assert ledger.insert(row())
    event = Dispatched(1, "w1", f"{TASK_ID}-1", "v1", "i1", queue_delay_ms=3)
    running = arrive(row(), event, now=NOW, holder=Holder.LOST, random=lambda: 0.5).row
    assert running is not None
    assert ledger.replace(running)
    return running, end(running, SUCCESS, response=None, now=NOW + 2, random=lambda: 0.5)


def test_what_was_written_without_an_answer_is_said_all_the_same(
    ledger: AnswerLost, records: RecordStore, steps: StepApplier
) -> None:
    running, step = ending(ledger)
    ledger.lost = 1
    assert steps.commit(step, running, patience=10) == step.row
    assert [record["event"] for record in records.records()] == ["attempt.finished", "task.finished"]


def test_without_patience_a_ledger_is_asked_twice_and_then_it_is_trouble(
    ledger: AnswerLost, records: RecordStore, steps: StepApplier
) -> None:
    running, step = ending(ledger)
    ledger.lost = 2
    with pytest.raises(Unavailable):
        steps.commit(step, running)
    assert (ledger.lost, records.records()) == (0, [])


def test_an_attempt_whose_beginning_was_written_without_an_answer_begins_all_the_same(
    ledger: AnswerLost, records: RecordStore, steps: StepApplier
) -> None:
    assert ledger.insert(row())
    event = Dispatched(1, "w1", f"{TASK_ID}-1", "v1", "i1", queue_delay_ms=3)
    step = arrive(row(), event, now=NOW, holder=Holder.LOST, random=lambda: 0.5)
    ledger.lost = 1
    assert steps.commit(step, row()) == ledger.get(TASK_ID) == step.row
    assert [record["event"] for record in records.records()] == ["attempt.started"]


def test_of_two_who_cancel_at_once_only_one_takes_it_for_its_own(
    ledger: AnswerLost, records: RecordStore, steps: StepApplier
) -> None:
    assert ledger.insert(row())
    mine, others = (cancel(row(), actor=actor, now=NOW) for actor in ("me", "another"))
    assert mine is not None
    assert others is not None
    assert others.row is not None
    ledger.replace(others.row)
    ledger.lost = 1
    with pytest.raises(RowChanged):
        steps.commit(mine, row())
    assert records.records() == []


def test_what_somebody_else_wrote_meanwhile_is_not_taken_for_ours(
    ledger: AnswerLost, records: RecordStore, steps: StepApplier
) -> None:
    running, step = ending(ledger)
    ledger.replace(running.model_copy(update={"state": "cancelled", "revision": running.revision + 1}))
    ledger.lost = 1
    with pytest.raises(RowChanged):
        steps.commit(step, running, patience=10)
    assert records.records() == []
