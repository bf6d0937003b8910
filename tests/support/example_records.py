"""One whole example of every record of the contract, as the relay hands it to the log."""

from __future__ import annotations

from typing import Any

from traced_relay.logs.record import TraceRef

TASK_ID = "4f0c" * 8
QUEUE = "projects/demo-project/locations/us-central1/queues/relay"
TRACE = TraceRef("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", sampled=True)

TASK: dict[str, Any] = {"kind": "call", "queue": "relay", "task_id": TASK_ID, "round": 1}
DISPATCH = TASK | {
    "task_name": f"{QUEUE}/tasks/{TASK_ID}-2",
    "attempt": 2,
    "retry_count": 1,
    "dispatch": {
        "task_retry_count": 0,
        "task_execution_count": 0,
        "task_eta": 1721236265.266817,
        "task_previous_response": None,
        "task_retry_reason": None,
    },
    "queue_delay_ms": 12,
    "trace_rewritten": False,
    "rule": "reports",
}
FINISHED = DISPATCH | {
    "latency_ms": 1234,
    "verdict": "succeeded",
    "reason": None,
    "blame": None,
    "status_code": 200,
    "retry_delay_ms": None,
    "delay_reason": None,
    "downstream": "reports-x.a.run.app",
    "timing": {"token_ms": 3, "connect_ms": 20, "tls_ms": 31, "first_byte_ms": 1100, "body_ms": 80},
    "httpRequest": {
        "requestMethod": "POST",
        "requestUrl": "https://reports-x.a.run.app/build",
        "status": 200,
        "latency": "1.234s",
        "requestSize": "12",
        "responseSize": "345",
    },
}
RETRY = {"verdict": "retry", "reason": "http_503", "blame": "downstream", "status_code": 503}
LOST = {"reason": "worker_lost", "blame": "platform", "status_code": None, "timing": None, "dispatch": None}
ENDED = TASK | {"state": "succeeded", "attempt_count": 2, "reason": None, "blame": None, "total_ms": 4321}

EXAMPLES: list[tuple[str, dict[str, Any], str]] = [
    ("task.enqueued", TASK | {"task_name": f"{QUEUE}/tasks/{TASK_ID}-1", "rule": "reports"}, "INFO"),
    ("task.enqueued", TASK | {"kind": "callback", "callback_of": "ab" * 16}, "INFO"),
    ("attempt.started", DISPATCH, "INFO"),
    ("attempt.heartbeat", DISPATCH | {"elapsed_ms": 60_000, "deadline_in_ms": 540_000}, "INFO"),
    ("attempt.interrupted", DISPATCH | {"elapsed_ms": 60_000, "request_sent": True}, "WARNING"),
    ("attempt.finished", FINISHED, "INFO"),
    ("attempt.finished", FINISHED | RETRY | {"retry_delay_ms": 900, "delay_reason": "backoff"}, "WARNING"),
    ("attempt.finished", FINISHED | RETRY | {"verdict": "gave_up"}, "ERROR"),
    ("attempt.finished", FINISHED | LOST | {"verdict": "gave_up", "trace_rewritten": None}, "ERROR"),
    ("attempt.finished", FINISHED | {"verdict": "cancelled", "reason": "cancelled", "blame": "caller"}, "INFO"),
    ("task.finished", ENDED, "INFO"),
    ("task.finished", ENDED | DISPATCH, "INFO"),
    ("task.finished", ENDED | {"state": "failed", "reason": "timeout", "blame": "downstream"}, "ERROR"),
    ("task.finished", ENDED | {"state": "cancelled", "reason": "removed", "blame": "platform"}, "INFO"),
    ("task.cancelled", TASK | {"actor": "oncall@example.com"}, "NOTICE"),
    ("task.redriven", TASK | {"actor": "oncall@example.com", "round": 2}, "NOTICE"),
    (
        "dispatch.rejected",
        {"reason": "not_from_queue", "detail": "no queue header"},
        "WARNING",
    ),
    (
        "dispatch.rejected",
        {"reason": "unknown_task", "detail": "no such row", "queue": "relay", "task_name": "x", "task_id": TASK_ID},
        "ERROR",
    ),
    ("dispatch.rejected", {"reason": "unreadable", "detail": "not JSON", "queue": "relay", "task_name": "x"}, "ERROR"),
    ("enqueue.rejected", {"reason": "no_token", "detail": "no ID token"}, "WARNING"),
    ("enqueue.rejected", {"reason": "not_allowed", "detail": "no", "queue": "x", "principal": "a@b"}, "WARNING"),
    (
        "downstream.denied",
        DISPATCH | {"downstream": "10.0.0.1", "reason": "denied", "detail": "a private address"},
        "WARNING",
    ),
    ("dispatch.deferred", {"reason": "capacity", "queue": "relay", "task_name": f"{QUEUE}/tasks/x"}, "INFO"),
    ("dispatch.deferred", DISPATCH | {"reason": "held_by_another_worker"}, "INFO"),
    ("relay.started", {"address": "http://127.0.0.1:8080"}, "INFO"),
    ("relay.stopping", {"signal": "SIGTERM", "running": 3}, "INFO"),
    (
        "relay.swept",
        {
            "overdue": 1,
            "oldest_overdue_ms": 61_000,
            "running": 4,
            "workers_lost": 0,
            "recovered": 1,
            "callbacks_pending": 0,
            "oldest_callback_ms": None,
        },
        "INFO",
    ),
    ("telemetry.dropped", {"dropped_spans": 12}, "WARNING"),
]
