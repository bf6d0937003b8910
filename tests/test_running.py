from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from example_rows import NOW, TASK_ID, TRACE_ID, call, row
from schema import validate
from traced_relay.calls import DAY
from traced_relay.clock import ManualClock
from traced_relay.dispatch import Delivery, Dispatch
from traced_relay.journal import Journal
from traced_relay.logs import Identity, Log, RecordStore
from traced_relay.rows import Attempt
from traced_relay.running import AlreadyHeld, RunningCalls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traced_relay.rows import Row

QUEUES = "projects/p/locations/l/queues"
DELIVERY = Delivery(Dispatch("relay", f"{TASK_ID}-1"), f"{QUEUES}/relay/tasks/{TASK_ID}-1", 1, 5, trace_rewritten=False)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def records() -> RecordStore:
    return RecordStore()


@pytest.fixture
def running(clock: ManualClock, records: RecordStore) -> Iterator[RunningCalls]:
    log = Log(Identity("p", "v", "i"), stream=io.StringIO(), store=records, clock=clock)
    calls = RunningCalls(clock, Journal(log, QUEUES), capacity=2, heartbeat=60)
    calls.start()
    yield calls
    calls.stop("close")
    calls.cut_all()


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
    return row(state="running", attempt=number, attempts=(attempt,), call=call(timeout=timeout))


def said(records: RecordStore, event: str) -> list[dict[str, object]]:
    return [record for record in records.records() if record["event"] == event]


def test_what_is_held_is_known_until_it_is_let_go(running: RunningCalls) -> None:
    with running.hold(attempted(1), DELIVERY):
        assert (running.holds(attempted(1)), running.holds(attempted(2))) == (True, False)
    assert not running.holds(attempted(1))


def test_an_attempt_is_held_once(running: RunningCalls) -> None:
    with running.hold(attempted(), DELIVERY):
        with pytest.raises(AlreadyHeld), running.hold(attempted(), DELIVERY):
            pass
        assert running.holds(attempted())


def test_no_more_calls_than_its_capacity_are_taken_on(running: RunningCalls) -> None:
    assert running.refusal() is None
    with running.hold(attempted(1), DELIVERY), running.hold(attempted(2), DELIVERY):
        assert running.refusal() == "capacity"
    assert running.refusal() is None


def test_a_running_call_says_how_long_it_has_been_and_may_still_be(
    running: RunningCalls, clock: ManualClock, records: RecordStore
) -> None:
    with running.hold(attempted(timeout=150), DELIVERY) as guard:
        clock.advance(60)
        first = records.wait_for("attempt.heartbeat", TASK_ID, 5)
        assert first is not None
        assert (first["elapsed_ms"], first["deadline_in_ms"]) == (60_000, 90_000)
        assert (first["attempt"], first["logging.googleapis.com/trace"]) == (1, f"projects/p/traces/{TRACE_ID}")
        validate(first)
        assert not guard.is_cut


def test_a_call_that_is_over_says_nothing_more(running: RunningCalls, clock: ManualClock, records: RecordStore) -> None:
    with running.hold(attempted(1), DELIVERY):
        pass
    with running.hold(attempted(2), DELIVERY):
        clock.advance(60)
        assert records.wait_for("attempt.heartbeat", TASK_ID, 5)
    assert [record["attempt"] for record in said(records, "attempt.heartbeat")] == [2]


def test_stopping_cuts_every_call_and_says_which_had_been_sent(
    running: RunningCalls, clock: ManualClock, records: RecordStore
) -> None:
    with running.hold(attempted(1), DELIVERY) as sent, running.hold(attempted(2), DELIVERY) as unsent:
        sent.start_sending()
        clock.advance(7)
        assert running.stop("SIGTERM") == [TASK_ID]
        assert (sent.cut_for, unsent.cut_for) == ("interrupted", "interrupted")
    (stopping,) = said(records, "relay.stopping")
    assert (stopping["signal"], stopping["running"]) == ("SIGTERM", 2)
    interrupted = said(records, "attempt.interrupted")
    assert [(r["attempt"], r["elapsed_ms"], r["request_sent"]) for r in interrupted] == [
        (1, 7000, True),
        (2, 7000, False),
    ]
    for record in records.records():
        validate(record)


def test_once_stopping_it_takes_nothing_on_and_stops_no_second_time(
    running: RunningCalls, records: RecordStore
) -> None:
    assert running.stop("SIGTERM") == []
    assert running.refusal() == "stopping"
    with pytest.raises(AlreadyHeld), running.hold(attempted(), DELIVERY):
        pass
    assert running.stop("SIGINT") is None
    assert [record["signal"] for record in said(records, "relay.stopping")] == ["SIGTERM"]
