"""A ledger behind a network: what it was asked is done, and the answer gets lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from opentelemetry.trace import NoOpTracer

from support.step_appliers import step_applier
from traced_relay.api.auth import ANONYMOUS
from traced_relay.errors import Unavailable
from traced_relay.ledger.sqlite import SqliteLedger
from traced_relay.relay.admission import Admission
from traced_relay.relay.enqueue import Enqueuer
from traced_relay.relay.policy import Policy
from traced_relay.runtime.clock import SystemClock
from traced_relay.tasks.status_document import Links

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traced_relay.tasks.row import Row
    from traced_relay.testing import Downstream, RunningRelay


class LosesAnswers(SqliteLedger):
    to_insert = to_note = False

    def insert(self, row: Row) -> bool:
        done = super().insert(row)
        if self.to_insert:
            raise Unavailable("no answer")
        return done

    def note(self, task_id: str, attempt: int) -> None:
        if self.to_note:
            raise Unavailable("no answer")
        super().note(task_id, attempt)


@pytest.fixture
def ledger() -> Iterator[LosesAnswers]:
    opened = LosesAnswers(SystemClock())
    yield opened
    opened.close()


@pytest.fixture
def enqueuer(relay: RunningRelay, ledger: LosesAnswers) -> Enqueuer:
    rules = relay.settings.rules
    return Enqueuer(
        admission=Admission(Policy(["relay"], rules.downstreams, rules.retry, 3600.0), SystemClock()),
        ledger=ledger,
        cloud_tasks=relay.application._cloud_tasks,
        task_log=relay.application._task_log,
        tracer=NoOpTracer(),
        clock=SystemClock(),
        step_applier=step_applier(relay, ledger, relay.application._cloud_tasks, SystemClock()),
        direct_account="a@example.com",
        links=lambda: Links("http://localhost", "p"),
    )


def test_a_call_with_row_and_task_is_accepted_without_its_note(
    relay: RunningRelay, ledger: LosesAnswers, enqueuer: Enqueuer, downstream: Downstream
) -> None:
    ledger.to_note = True
    receipt = enqueuer.enqueue({"url": downstream.url, "delay": "1h"}, ANONYMOUS)
    assert [record["event"] for record in relay.records.records(receipt["task_id"])] == ["task.enqueued"]
    assert receipt["state"] == "queued"
    assert ledger.get(receipt["task_id"]) is not None


def test_a_refused_call_leaves_no_row(ledger: LosesAnswers, enqueuer: Enqueuer, downstream: Downstream) -> None:
    ledger.to_insert = True
    with pytest.raises(Unavailable):
        enqueuer.enqueue({"url": downstream.url}, ANONYMOUS)
    assert ledger.tally(float("inf")).overdue == 0
    with pytest.raises(Unavailable):
        enqueuer.enqueue({"url": downstream.url}, ANONYMOUS, "a key")
    assert ledger.tally(float("inf")).overdue == 1  # for whoever asks again
