"""A call and its row as they might be, to be changed where a test cares."""

from __future__ import annotations

from typing import Any

from traced_relay.tasks.call import Call, Callback, RetryPolicy
from traced_relay.tasks.retry import AttemptResult
from traced_relay.tasks.row import Attempt, Response, Row
from traced_relay.tasks.state_machine import Dispatched, WorkerIdentity

NOW = 1_790_000_000.0
TASK_ID = "0123456789abcdef0123456789abcdef"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID = "b7ad6b7169203331"

SUCCESS = AttemptResult(200, None)
BUSY = AttemptResult(503, "http_503")
MISSING = AttemptResult(404, "http_404")


def policy(**changes: Any) -> RetryPolicy:
    """A policy with a curve that can be reckoned in the head, and no dice."""
    plain = {"min_backoff": "10s", "max_backoff": "300s", "max_doublings": 3, "jitter": "none"}
    return RetryPolicy.model_validate(plain | changes)


def call(**changes: Any) -> Call:
    plain = {"url": "https://reports.example.com/build?month=7", "timeout": 600.0, "retry": policy()}
    return Call(**plain | changes)


def row(**changes: Any) -> Row:
    plain: dict[str, Any] = {
        "task_id": TASK_ID,
        "queue": "relay",
        "call": call(),
        "rule": "reports",
        "caller": "reports@p.iam.gserviceaccount.com",
        "carrier": {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01"},
        "trace_id": TRACE_ID,
        "span_id": SPAN_ID,
        "sampled": True,
        "created_at": NOW,
        "schedule_time": NOW,
        "next_attempt_at": NOW,
    }
    return Row(**plain | changes)


def dispatched(number: int = 1, worker: str = "w1", *, task_id: str = TASK_ID, queue_delay_ms: int = 12) -> Dispatched:
    """The dispatch of attempt *number* to *worker*, of version v1 on instance i1."""
    return Dispatched(number, WorkerIdentity(worker, "v1", "i1"), f"{task_id}-{number}", queue_delay_ms)


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
