from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from support.example_rows import BUSY, NOW, SPAN_ID, TASK_ID, TRACE_ID, call, dispatched, row
from support.schema import validate
from traced_relay.cloud_tasks.delivery import Delivery, Dispatch
from traced_relay.downstream.sender import Exchange, Timing
from traced_relay.logs.store import RecordStore
from traced_relay.logs.writer import Identity, Log
from traced_relay.relay.task_log import TaskLog
from traced_relay.runtime.clock import ManualClock
from traced_relay.tasks.retry import AttemptResult
from traced_relay.tasks.row import Response
from traced_relay.tasks.state_machine import Holder, LogEvent, arrive, end

if TYPE_CHECKING:
    from traced_relay.tasks.row import Row

QUEUES = "projects/p/locations/l/queues"
NAME = f"{QUEUES}/relay/tasks/{TASK_ID}-1"
PROCESS = "00f067aa0ba902b7"
GOOGLE = "logging.googleapis.com/"

TASK: dict[str, Any] = {"kind": "call", "queue": "relay", "task_id": TASK_ID, "round": 1}
SAID = {
    "task_retry_count": 2,
    "task_execution_count": 1,
    "task_eta": NOW - 1.5,
    "task_previous_response": 500,
    "task_retry_reason": "App Error",
}
DISPATCH = Dispatch("relay", f"{TASK_ID}-1", 2, 1, NOW - 1.5, 500, "App Error")
DELIVERY = Delivery(DISPATCH, NAME, 1, 1500, trace_rewritten=True)
DISPATCHED = TASK | {
    "task_name": NAME,
    "attempt": 1,
    "retry_count": 0,
    "dispatch": SAID,
    "queue_delay_ms": 1500,
    "trace_rewritten": True,
    "rule": "reports",
}


class Logged:
    """A task log and its records, each validated against the schema; *fields* leaves out what all records have."""

    def __init__(self) -> None:
        self._store = RecordStore()
        log = Log(Identity("p", "v1", "i1"), stream=io.StringIO(), store=self._store, clock=ManualClock(NOW + 99))
        self.task_log = TaskLog(log, QUEUES)

    @property
    def records(self) -> list[dict[str, Any]]:
        for record in self._store.records():
            validate(record)
        return self._store.records()

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the only record."""
        (record,) = self.records
        plain = {"event", "severity", "time", "message", "version", "instance"}
        return {name: value for name, value in record.items() if name not in plain and not name.startswith(GOOGLE)}

    @property
    def span_id(self) -> str | None:
        (record,) = self.records
        trace = record.get(f"{GOOGLE}trace")
        assert trace in (None, f"projects/p/traces/{TRACE_ID}")
        found: str | None = record.get(f"{GOOGLE}spanId")
        return found


@pytest.fixture
def logged() -> Logged:
    return Logged()


def running(**changes: Any) -> Row:
    event = replace(dispatched(queue_delay_ms=1500), task_name=NAME)
    begun = arrive(row(**changes), event, now=NOW, holder=Holder.LOST, random=lambda: 0.5).row
    assert begun is not None
    return begun.changed(attempts=(begun.attempts[0].changed(span_id=PROCESS),))


def after(before: Row, ending: AttemptResult) -> Row:
    ended = end(before, ending, response=None, now=NOW + 2, random=lambda: 0.5).row
    assert ended is not None
    return ended


def test_an_enqueued_record_has_the_time_of_its_row(logged: Logged) -> None:
    logged.task_log.enqueued(row(), NAME)
    assert logged.fields == TASK | {"task_name": NAME, "route": "relay"}
    assert (logged.span_id, logged.records[0]["time"]) == (SPAN_ID, "2026-09-21T14:13:20.000000Z")


def test_an_attempts_record_has_its_dispatch_and_its_span(logged: Logged) -> None:
    logged.task_log.log_event(LogEvent("attempt.started"), running(), DELIVERY)
    assert logged.fields == DISPATCHED
    assert logged.span_id == PROCESS


def test_fields_of_an_event_are_logged(logged: Logged) -> None:
    logged.task_log.log_event(
        LogEvent("attempt.heartbeat", {"elapsed_ms": 5, "deadline_in_ms": 7}), running(), DELIVERY
    )
    assert logged.fields == DISPATCHED | {"elapsed_ms": 5, "deadline_in_ms": 7}


def test_a_finished_attempt_in_full(logged: Logged) -> None:
    exchange = Exchange(BUSY, Timing(3, 20, 31, 1100, 80), Response(status_code=503, headers={}), 345)
    logged.task_log.log_event(LogEvent("attempt.finished"), after(running(), BUSY), DELIVERY, exchange)
    assert logged.fields == DISPATCHED | {
        "latency_ms": 2000,
        "verdict": "retry",
        "reason": "http_503",
        "blame": "downstream",
        "status_code": 503,
        "retry_delay_ms": 10_000,
        "delay_reason": "backoff",
        "downstream": "reports.example.com",
        "timing": {"token_ms": 3, "connect_ms": 20, "tls_ms": 31, "first_byte_ms": 1100, "body_ms": 80},
        "httpRequest": {
            "requestMethod": "POST",
            "requestUrl": "https://reports.example.com/build",
            "latency": "2.000s",
            "status": 503,
            "responseSize": "345",
        },
    }
    assert (logged.records[0]["severity"], logged.records[0]["time"]) == ("WARNING", "2026-09-21T14:13:22.000000Z")


def test_a_lost_attempts_record_has_no_fields_of_another_dispatch(logged: Logged) -> None:
    later = Delivery(Dispatch("relay", f"{TASK_ID}-2", 3, 2, NOW), f"{NAME[:-1]}2", 2, 30_000, trace_rewritten=False)
    logged.task_log.log_event(LogEvent("attempt.finished"), after(running(), AttemptResult(None, "worker_lost")), later)
    assert logged.fields == DISPATCHED | {
        "dispatch": None,
        "queue_delay_ms": 1500,
        "trace_rewritten": None,
        "latency_ms": 2000,
        "verdict": "gave_up",
        "reason": "worker_lost",
        "blame": "platform",
        "status_code": None,
        "retry_delay_ms": None,
        "delay_reason": None,
        "downstream": "reports.example.com",
        "timing": dict.fromkeys(("token_ms", "connect_ms", "tls_ms", "first_byte_ms", "body_ms")),
        "httpRequest": {
            "requestMethod": "POST",
            "requestUrl": "https://reports.example.com/build",
            "latency": "2.000s",
        },
    }
    assert (logged.span_id, logged.records[0]["severity"]) == (PROCESS, "ERROR")


def test_the_end_of_a_task_is_its_own_record(logged: Logged) -> None:
    logged.task_log.log_event(LogEvent("task.finished"), after(running(), AttemptResult(404, "http_404")), DELIVERY)
    assert logged.fields == TASK | {
        "state": "failed",
        "attempt_count": 1,
        "reason": "http_404",
        "blame": "caller",
        "rule": "reports",
        "total_ms": 2000,
    }
    assert (logged.span_id, logged.records[0]["severity"]) == (SPAN_ID, "ERROR")


def test_a_clock_set_back_makes_no_duration_negative(logged: Logged) -> None:
    logged.task_log.log_event(LogEvent("task.finished"), row(state="succeeded", finished_at=NOW - 3600), DELIVERY)
    assert logged.fields["total_ms"] == 0


def test_a_denied_record_names_the_host_and_not_the_url(logged: Logged) -> None:
    private = call(url="https://user.internal:8443/hush?token=hush")
    logged.task_log.denied(running(call=private, rule=None), DELIVERY, "no rule matches")
    denied = {"rule": None, "reason": "denied", "detail": "no rule matches", "downstream": "user.internal"}
    assert logged.fields == DISPATCHED | denied
    assert (logged.span_id, "hush" in str(logged.records)) == (PROCESS, False)


def test_a_deferred_dispatch_has_the_full_task_name(logged: Logged) -> None:
    logged.task_log.deferred(DISPATCH, reason="capacity", detail="no room")
    assert logged.fields == {"reason": "capacity", "detail": "no room", "queue": "relay", "task_name": NAME}
    assert logged.span_id is None


def test_a_deferred_dispatch_with_a_row_has_the_tasks_fields(logged: Logged) -> None:
    logged.task_log.deferred(DISPATCH, reason="held_by_another_worker", detail="busy", row=running())
    assert logged.fields == TASK | {"reason": "held_by_another_worker", "detail": "busy", "task_name": NAME}
    assert (logged.span_id, logged.records[0][f"{GOOGLE}operation"]["id"]) == (SPAN_ID, TASK_ID)


@pytest.mark.parametrize(
    ("claimed", "named"),
    [
        (Dispatch("relay", "t"), {"queue": "relay", "task_name": f"{QUEUES}/relay/tasks/t"}),
        (Dispatch("relay", ""), {"queue": "relay"}),
        (Dispatch("", ""), {}),
        (
            Dispatch("q" * 5000, "t" * 5000),
            {"queue": "q" * 100, "task_name": f"{QUEUES}/{'q' * 100}/tasks/{'t' * 500}"},
        ),
    ],
)
def test_a_rejected_dispatch_has_its_claimed_names(logged: Logged, claimed: Dispatch, named: dict[str, str]) -> None:
    logged.task_log.dispatch_rejected(claimed, reason="not_from_the_queue", detail="no")
    assert logged.fields == {"reason": "not_from_the_queue", "detail": "no"} | named
    assert logged.span_id is None


def test_a_rejected_request_names_its_principal_if_known(logged: Logged) -> None:
    logged.task_log.enqueue_rejected(reason="no_token", detail="an ID token is required")
    logged.task_log.enqueue_rejected(reason="invalid", detail="url is required", principal="a@b")
    first, second = logged.records
    assert "principal" not in first
    assert (second["event"], second["reason"], second["principal"]) == ("enqueue.rejected", "invalid", "a@b")


def test_a_stopping_record_has_its_signal_and_running_calls(logged: Logged) -> None:
    logged.task_log.stopping("SIGTERM", 3)
    assert logged.fields == {"signal": "SIGTERM", "running": 3}
