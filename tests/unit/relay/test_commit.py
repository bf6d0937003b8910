from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from support.example_rows import NOW, SUCCESS, TASK_ID, dispatched, row
from traced_relay.cloud_tasks.client import CloudTasks
from traced_relay.config.relay_yaml import TaskTarget
from traced_relay.errors import Unavailable
from traced_relay.ledger.sqlite import SqliteLedger
from traced_relay.logs.store import RecordStore
from traced_relay.logs.writer import Identity, Log
from traced_relay.relay.commit import StepApplier
from traced_relay.relay.task_log import TaskLog
from traced_relay.runtime.clock import ManualClock, SystemClock
from traced_relay.tasks.callback import CallbackBuilder
from traced_relay.tasks.state_machine import Holder, Step, arrive, cancel, end
from traced_relay.tasks.status_document import Links

if TYPE_CHECKING:
    from collections.abc import Iterator
    from threading import Condition

    from traced_relay.tasks.row import Row


class HastyClock(SystemClock):
    def wait(self, condition: Condition, seconds: float | None) -> None:
        """Return early, as any wait may."""


class AnswerLost(SqliteLedger):
    """A ledger that writes the change but loses the response."""

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
def step_applier(ledger: AnswerLost, records: RecordStore) -> Iterator[StepApplier]:
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
    running = arrive(row(), dispatched(), now=NOW, holder=Holder.LOST, random=lambda: 0.5).row
    assert running is not None
    assert ledger.replace(running)
    return running, end(running, SUCCESS, response=None, now=NOW + 2, random=lambda: 0.5)


def test_a_commit_whose_response_was_lost_is_logged(
    ledger: AnswerLost, records: RecordStore, step_applier: StepApplier
) -> None:
    running, step = ending(ledger)
    ledger.lost = 1
    assert step_applier.commit(step, running, patience=10) == step.row
    assert [record["event"] for record in records.records()] == ["attempt.finished", "task.finished"]


def test_without_patience_a_commit_is_tried_twice(
    ledger: AnswerLost, records: RecordStore, step_applier: StepApplier
) -> None:
    running, step = ending(ledger)
    ledger.lost = 2
    with pytest.raises(Unavailable):
        step_applier.commit(step, running)
    assert (ledger.lost, records.records()) == (0, [])


def test_an_attempt_starts_if_only_the_ledgers_response_was_lost(
    ledger: AnswerLost, records: RecordStore, step_applier: StepApplier
) -> None:
    assert ledger.insert(row())
    step = arrive(row(), dispatched(), now=NOW, holder=Holder.LOST, random=lambda: 0.5)
    ledger.lost = 1
    assert step_applier.commit(step, row()) == ledger.get(TASK_ID) == step.row
    assert [record["event"] for record in records.records()] == ["attempt.started"]


def test_only_one_of_two_concurrent_cancels_commits(
    ledger: AnswerLost, records: RecordStore, step_applier: StepApplier
) -> None:
    assert ledger.insert(row())
    mine, others = (cancel(row(), actor=actor, now=NOW) for actor in ("me", "another"))
    assert mine is not None
    assert others is not None
    assert others.row is not None
    ledger.replace(others.row)
    ledger.lost = 1
    assert step_applier.commit(mine, row()) is None
    assert records.records() == []


def test_another_workers_change_is_not_taken_for_an_own_one(
    ledger: AnswerLost, records: RecordStore, step_applier: StepApplier
) -> None:
    running, step = ending(ledger)
    ledger.replace(running.changed(state="cancelled", revision=running.revision + 1))
    ledger.lost = 1
    assert step_applier.commit(step, running, patience=10) is None
    assert records.records() == []
