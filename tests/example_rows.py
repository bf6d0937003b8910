"""A call and its row as they might be, to be changed where a test cares."""

from __future__ import annotations

from typing import Any

from traced_relay.calls import Call, RetryPolicy
from traced_relay.retry import Ending
from traced_relay.rows import Row

NOW = 1_790_000_000.0
TASK_ID = "0123456789abcdef0123456789abcdef"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID = "b7ad6b7169203331"

SUCCESS = Ending(200, None)
BUSY = Ending(503, "http_503")
MISSING = Ending(404, "http_404")


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
