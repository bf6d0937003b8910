"""Rows as the API shows them: the status document and its summary in lists. Pure."""

from __future__ import annotations

import base64
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, cast
from urllib.parse import quote

from msgspec import Struct
from msgspec.structs import asdict

from traced_relay.formats.durations import format_time, ms_between
from traced_relay.tasks.retry import retryable_status_codes

if TYPE_CHECKING:
    from traced_relay.tasks import api_types
    from traced_relay.tasks.row import Attempt, Response, Row


class Links(Struct, frozen=True):
    """URLs of a task's pages: in the local *console*, or in Google's without one."""

    base: str
    project: str
    console: str | None = None

    def of(self, task_id: str, trace_id: str) -> api_types.Links:
        status = f"{self.base}/v1/tasks/{task_id}"
        if self.console is not None:
            page = f"{self.console}/tasks/{task_id}"
            return {"status": status, "trace": page, "logs": page}
        cloud, project = "https://console.cloud.google.com", _quoted(self.project)
        return {
            "status": status,
            "trace": f"{cloud}/traces/explorer;traceId={trace_id}?project={project}",
            "logs": f"{cloud}/logs/query;query=operation.id%3D%22{task_id}%22?project={project}",
        }


@lru_cache(maxsize=1)
def _quoted(project: str) -> str:
    return quote(project)


def receipt(row: Row, task_name: str, links: Links) -> api_types.Receipt:
    """What enqueueing *row* returns; *task_name* is that of its first task."""
    return {
        "task_id": row.task_id,
        "task_name": task_name,
        "queue": row.queue,
        "state": row.state,
        "trace_id": row.trace_id,
        "schedule_time": format_time(row.schedule_time),
        "links": {**links.of(row.task_id, row.trace_id)},
    }


class Context(Struct, frozen=True, kw_only=True):
    """What a document shows besides its row; *callback* is the row of this round's callback."""

    links: Links
    now: float
    retention: float
    heartbeat_at: float | None = None
    callback: Row | None = None


def status(row: Row, context: Context) -> api_types.Status:
    """The summary with the attempts and the response."""
    return {
        **summary(row, context),
        "attempts": [_attempt(attempt) for attempt in row.attempts],
        "response": _response(row.response) if row.response else None,
    }


def summary(row: Row, context: Context) -> api_types.Summary:
    call = row.call
    policy = call.retry.model_dump()
    policy["retryable_status_codes"] = list(retryable_status_codes(call.retry, idempotent=call.idempotent))
    return {
        "task_id": row.task_id,
        "kind": "callback" if row.kind == "callback" else "call",
        "queue": row.queue,
        "state": row.state,
        "url": call.url,
        "method": call.method,
        "labels": call.labels,
        "rule": row.rule,
        "trace_id": row.trace_id,
        "round": row.round,
        "created_at": format_time(row.created_at),
        "schedule_time": format_time(row.scheduled_at),
        "finished_at": _time(row.finished_at),
        "next_attempt_at": _time(row.next_attempt_at),
        "overdue_ms": _overdue_ms(row, context.now),
        "heartbeat_at": _time(context.heartbeat_at),
        "expires_at": _time(row.expires_at(context.retention)),
        "cancel_requested_at": _time(row.cancel_requested_at),
        "actor": row.actor,
        "attempt": row.attempt,
        "retry_count": row.retry_count,
        "reason": row.reason,
        "blame": row.blame,
        "total_ms": row.total_ms,
        "retry": policy,
        "callback": _callback(row, context.callback),
        "links": context.links.of(row.task_id, row.trace_id),
    }


def _callback(row: Row, callback: Row | None) -> api_types.CallbackState:
    """State of this round's callback; pending also before the task has ended."""
    if callback is None:
        wanted = row.wants_callback if row.has_ended else row.call.callback is not None
        state: Literal["none", "pending"] = "pending" if wanted else "none"
        return {"state": state, "attempt_count": 0, "next_attempt_at": None, "reason": None}
    last = callback.attempts[-1].reason if callback.attempts else None
    return {
        "state": ("delivered" if callback.state == "succeeded" else "failed") if callback.has_ended else "pending",
        "attempt_count": callback.started,
        "next_attempt_at": _time(callback.next_attempt_at),
        "reason": callback.reason or last,
    }


def _overdue_ms(row: Row, now: float) -> int:
    return 0 if row.next_attempt_at is None else ms_between(row.next_attempt_at, now)


def _attempt(attempt: Attempt) -> api_types.Attempt:
    """The stored attempt; its fields have the API's names, its times are text."""
    times = {"started_at": format_time(attempt.started_at), "ended_at": _time(attempt.ended_at)}
    return cast("api_types.Attempt", asdict(attempt) | times)


def _response(response: Response) -> api_types.Response:
    """The stored response; its body as text if it is UTF-8, else in base64."""
    document: api_types.Response = {
        "status_code": response.status_code,
        "headers": response.headers,
        "truncated": response.truncated,
    }
    try:
        return {**document, "body": response.body.decode()}
    except UnicodeDecodeError:
        return {**document, "body_base64": base64.b64encode(response.body).decode()}


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else format_time(seconds)
