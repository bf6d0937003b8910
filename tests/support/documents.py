"""Status documents as the API answers them."""

from __future__ import annotations

from typing import Any

from support.example_rows import TASK_ID, TRACE_ID

LINKS = {
    "status": f"http://127.0.0.1:8080/v1/tasks/{TASK_ID}",
    "trace": f"http://127.0.0.1:8080/console/tasks/{TASK_ID}",
    "logs": f"http://127.0.0.1:8080/console/tasks/{TASK_ID}",
}
QUEUED = {
    "task_id": TASK_ID,
    "kind": "call",
    "queue": "relay",
    "state": "queued",
    "url": "https://reports.example.com/build?month=7",
    "method": "POST",
    "labels": {},
    "rule": "reports",
    "trace_id": TRACE_ID,
    "round": 1,
    "created_at": "2026-09-21T14:13:20.000000Z",
    "schedule_time": "2026-09-21T14:13:20.000000Z",
    "finished_at": None,
    "next_attempt_at": "2026-09-21T14:13:20.000000Z",
    "overdue_ms": 1500,
    "heartbeat_at": None,
    "expires_at": None,
    "cancel_requested_at": None,
    "actor": None,
    "attempt": 0,
    "retry_count": 0,
    "reason": None,
    "blame": None,
    "total_ms": None,
    "retry": {
        "max_attempts": 5,
        "max_retry_duration": "0s",
        "min_backoff": "10s",
        "max_backoff": "5m",
        "max_doublings": 3,
        "jitter": "none",
        "retryable_status_codes": [429, 503],
    },
    "callback": {"state": "none", "attempt_count": 0, "next_attempt_at": None, "reason": None},
    "links": LINKS,
}
QUEUE_STATUS: dict[str, Any] = {
    "queue": "relay",
    "for": "calls",
    "state": "RUNNING",
    "max_dispatches_per_second": None,
    "max_concurrent_dispatches": None,
    "tasks_count": None,
    "oldest_estimated_arrival_time": None,
    "executed_last_minute_count": None,
    "concurrent_dispatches_count": None,
}
