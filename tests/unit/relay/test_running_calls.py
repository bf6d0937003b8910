from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from support.example_rows import NOW, TASK_ID, TRACE_ID, call, row
from support.schema import validate
from traced_relay.cloud_tasks.delivery import Delivery, Dispatch
from traced_relay.ledger.sqlite import SqliteLedger
from traced_relay.logs.store import RecordStore
from traced_relay.logs.writer import Identity, Log
from traced_relay.relay.running_calls import RunningCalls
from traced_relay.relay.task_log import TaskLog
from traced_relay.runtime.clock import ManualClock
from traced_relay.tasks.call import DAY
from traced_relay.tasks.row import Attempt
from traced_relay.tasks.state_machine import Holder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traced_relay.tasks.row import Row

QUEUES = "projects/p/locations/l/queues"
DELIVERY = Delivery(Dispatch("relay", f"{TASK_ID}-1"), f"{QUEUES}/relay/tasks/{TASK_ID}-1", 1, 5, trace_rewritten=False)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def records() -> RecordStore:
    return RecordStore()


@pytest.fixture
def ledger(clock: ManualClock) -> Iterator[SqliteLedger]:
    opened = SqliteLedger(clock)
    yield opened
    opened.close()


@pytest.fixture
def running(clock: ManualClock, records: RecordStore, ledger: SqliteLedger) -> Iterator[RunningCalls]:
    log = Log(Identity("p", "v", "i"), stream=io.StringIO(), store=records, clock=clock)
    calls = RunningCalls(clock, TaskLog(log, QUEUES), ledger, worker="w1", capacity=2, heartbeat=60)
    calls.start()
    yield calls
    calls.stop("close")
    calls.abort_all()


def attempted(number: int = 1, timeout: float = DAY) -> Row:
    attempt = Attempt(
        attempt=number,
        round=1,
        task_name=DELIVERY.task_name,
        span_id="b7ad6b7169203331",
        version="v",
        instance="i",
        started_at=NOW,
        queue_delay_ms=5,
    )
    return row(state="running", worker="w1", attempt=number, attempts=(attempt,), call=call(timeout=timeout))


def said(records: RecordStore, event: str) -> list[dict[str, object]]:
    return [record for record in records.records() if record["event"] == event]


def test_a_held_attempt_is_alive_until_it_is_released(running: RunningCalls) -> None:
    with running.hold(attempted(1), DELIVERY):
        assert running.holder_of(attempted(1)) is Holder.ALIVE
        assert running.holder_of(attempted(2)) is Holder.LOST
    assert running.holder_of(attempted(1)) is Holder.LOST


def test_the_ledger_decides_about_other_workers_calls(running: RunningCalls, ledger: SqliteLedger) -> None:
    ledger.keep_alive("w2", 15)
    assert running.holder_of(attempted().changed(worker="w2")) is Holder.ALIVE


def test_while_stopping_the_ledger_decides_about_own_calls(running: RunningCalls, ledger: SqliteLedger) -> None:
    ledger.keep_alive("w1", 15)
    with running.hold(attempted(1), DELIVERY), running.hold(attempted(2), DELIVERY) as sent:
        sent.start_sending()
        unsent = running.stop("SIGTERM")
        assert unsent == [attempted(1).attempt_name]
        assert running.holder_of(attempted(1)) is Holder.ALIVE
        ledger.stop("w1", unsent)
    assert running.holder_of(attempted(1)) is Holder.STOPPED_UNSENT
    assert running.holder_of(attempted(2)) is Holder.STOPPED


def test_only_the_cancelled_call_is_aborted(running: RunningCalls) -> None:
    other = attempted().changed(task_id="f" * 32)
    with running.hold(attempted(), DELIVERY) as deadline, running.hold(other, DELIVERY) as left:
        running.abort(attempted().attempt_name)
        assert (deadline.aborted_by, left.aborted_by) == ("cancelled", None)


def test_calls_judged_by_others_are_aborted(running: RunningCalls, ledger: SqliteLedger) -> None:
    still, judged, start_attempt, gone = (attempted().changed(task_id=c * 32) for c in "abcd")
    for stored in (still, judged, start_attempt.changed(state="queued", revision=1)):
        assert ledger.insert(stored)
    ledger.replace(judged.changed(state="failed", worker=None, revision=2))
    start_attempt = start_attempt.changed(revision=2)
    with (
        running.hold(still, DELIVERY) as one,
        running.hold(judged, DELIVERY) as two,
        running.hold(start_attempt, DELIVERY) as three,
        running.hold(gone, DELIVERY) as four,
    ):
        running.abort_judged()
        assert [deadline.aborted_by for deadline in (one, two, three, four)] == [None, "cancelled", None, "cancelled"]


def test_an_attempt_is_held_only_once(running: RunningCalls) -> None:
    with running.hold(attempted(), DELIVERY):
        with running.hold(attempted(), DELIVERY) as second:
            assert second is None
        assert running.holder_of(attempted()) is Holder.ALIVE


def test_no_more_calls_run_than_the_capacity(running: RunningCalls) -> None:
    assert running.refusal() is None
    with running.hold(attempted(1), DELIVERY), running.hold(attempted(2), DELIVERY):
        assert running.refusal() == "capacity"
    assert running.refusal() is None


def test_a_heartbeat_has_elapsed_ms_and_deadline_in_ms(
    running: RunningCalls, clock: ManualClock, records: RecordStore
) -> None:
    with running.hold(attempted(timeout=150), DELIVERY) as deadline:
        clock.advance(60)
        first = records.wait_for("attempt.heartbeat", TASK_ID, 5)
        assert first is not None
        assert (first["elapsed_ms"], first["deadline_in_ms"]) == (60_000, 90_000)
        assert (first["attempt"], first["logging.googleapis.com/trace"]) == (1, f"projects/p/traces/{TRACE_ID}")
        validate(first)
        assert not deadline.is_aborted


def test_a_call_that_ended_logs_no_heartbeat(running: RunningCalls, clock: ManualClock, records: RecordStore) -> None:
    with running.hold(attempted(1), DELIVERY):
        pass
    with running.hold(attempted(2), DELIVERY):
        clock.advance(60)
        assert records.wait_for("attempt.heartbeat", TASK_ID, 5)
    assert [record["attempt"] for record in said(records, "attempt.heartbeat")] == [2]


def test_stopping_interrupts_every_call_and_logs_request_sent(
    running: RunningCalls, clock: ManualClock, records: RecordStore
) -> None:
    with running.hold(attempted(1), DELIVERY) as sent, running.hold(attempted(2), DELIVERY) as unsent:
        sent.start_sending()
        clock.advance(7)
        assert running.stop("SIGTERM") == [f"{TASK_ID}-2"]
        assert (sent.aborted_by, unsent.aborted_by) == ("interrupted", "interrupted")
    (stopping,) = said(records, "relay.stopping")
    assert (stopping["signal"], stopping["running"]) == ("SIGTERM", 2)
    interrupted = said(records, "attempt.interrupted")
    assert [(r["attempt"], r["elapsed_ms"], r["request_sent"]) for r in interrupted] == [
        (1, 7000, True),
        (2, 7000, False),
    ]
    for record in records.records():
        validate(record)


def test_stopping_refuses_calls_and_happens_once(running: RunningCalls, records: RecordStore) -> None:
    assert running.stop("SIGTERM") == []
    assert running.refusal() == "stopping"
    with running.hold(attempted(), DELIVERY) as deadline:
        assert deadline is None
    assert running.stop("SIGINT") is None
    assert [record["signal"] for record in said(records, "relay.stopping")] == ["SIGTERM"]
