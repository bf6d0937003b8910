"""JSON Schemas (2020-12) of what the API takes and answers. What a caller sends is said by its own model."""

from __future__ import annotations

from typing import Any, get_args

from pydantic.json_schema import models_json_schema

from traced_relay.tasks.call import Method, RetryPolicy
from traced_relay.tasks.enqueue_request import EnqueueRequest
from traced_relay.tasks.reasons import Blame
from traced_relay.tasks.states import STATES

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_COUNT_OR_NULL: Schema = {"type": ["integer", "null"], "minimum": 0}
_NUMBER: Schema = {"type": "integer", "minimum": 1}
_TIME: Schema = {"type": "string", "format": "date-time"}
_TIME_OR_NULL: Schema = {"type": ["string", "null"], "format": "date-time"}
_TASK_ID: Schema = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
_TRACE_ID: Schema = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
_TEXTS: Schema = {"type": "object", "additionalProperties": _TEXT}
_STATE: Schema = {"enum": list(STATES)}
_BLAME: Schema = {"enum": [*get_args(Blame), None]}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(description: str, /, **properties: Schema) -> Schema:
    """An object that has all of its *properties*; later versions may add some."""
    return {"type": "object", "description": description, "properties": properties, "required": list(properties)}


def _may_lack(schema: Schema, *names: str) -> Schema:
    return schema | {"required": [name for name in schema["required"] if name not in names]}


_SUMMARY: dict[str, Schema] = {
    "task_id": _TASK_ID,
    "kind": {"enum": ["call", "callback"]},
    "queue": _TEXT,
    "state": _STATE,
    "url": _TEXT,
    "method": {"enum": list(get_args(Method))},
    "labels": _TEXTS,
    "rule": {**_TEXT_OR_NULL, "description": "The downstream of relay.yaml that the URL matched."},
    "trace_id": _TRACE_ID,
    "round": _NUMBER,
    "created_at": _TIME,
    "schedule_time": {**_TIME, "description": "When this round was to start: as enqueued, or when it was redriven"},
    "finished_at": _TIME_OR_NULL,
    "next_attempt_at": _TIME_OR_NULL,
    "overdue_ms": _COUNT,
    "heartbeat_at": _TIME_OR_NULL,
    "expires_at": _TIME_OR_NULL,
    "cancel_requested_at": _TIME_OR_NULL,
    "actor": {**_TEXT_OR_NULL, "description": "Who cancelled or redrove it last."},
    "attempt": {**_COUNT, "description": "The last attempt that was started; 0: none yet."},
    "retry_count": _COUNT,
    "reason": {**_TEXT_OR_NULL, "examples": ["timeout", "http_503", "connect_failed"]},
    "blame": _BLAME,
    "total_ms": {**_COUNT_OR_NULL, "description": "From when this round was due to its end"},
    "retry": ref("RetryPolicy"),
    "callback": ref("CallbackState"),
    "links": ref("Links"),
}

_ANSWERS: dict[str, Schema] = {
    "Receipt": _object(
        "What enqueueing returns.",
        task_id=_TASK_ID,
        task_name=_TEXT,
        queue=_TEXT,
        state=_STATE,
        trace_id=_TRACE_ID,
        schedule_time=_TIME,
        links=ref("ReceiptLinks"),
    ),
    "ReceiptLinks": _object(
        "Where to look at the task.",
        status={**_TEXT_OR_NULL, "description": "null with `route: direct`, which has no status and no `Location`."},
        trace=_TEXT,
        logs=_TEXT,
    ),
    "Links": _object("Where to look at the task.", status=_TEXT, trace=_TEXT, logs=_TEXT),
    "Summary": _object("A task as the list shows it.", **_SUMMARY),
    "Status": _object(
        "A task, its last 100 attempts, and what the downstream answered last.",
        **_SUMMARY,
        attempts={"type": "array", "maxItems": 100, "items": ref("Attempt")},
        response={"anyOf": [ref("Response"), {"type": "null"}]},
    ),
    "Attempt": _object(
        "One exchange with the downstream.",
        attempt=_NUMBER,
        round=_NUMBER,
        task_name=_TEXT,
        span_id={"type": "string", "pattern": "^[0-9a-f]{16}$"},
        version=_TEXT,
        instance=_TEXT,
        started_at=_TIME,
        ended_at=_TIME_OR_NULL,
        queue_delay_ms={"type": ["integer", "null"]},
        latency_ms=_COUNT_OR_NULL,
        status_code=_COUNT_OR_NULL,
        verdict={"enum": ["succeeded", "retry", "gave_up", "cancelled", None]},
        reason=_TEXT_OR_NULL,
        blame=_BLAME,
        retry_delay_ms=_COUNT_OR_NULL,
        delay_reason={"enum": ["backoff", "retry_after", None]},
    ),
    "Response": _may_lack(
        _object(
            "The downstream's answer: `body` where its bytes are UTF-8, else `body_base64`; cut at 64 KiB.",
            status_code=_COUNT,
            headers=_TEXTS,
            body=_TEXT,
            body_base64={"type": "string", "contentEncoding": "base64"},
            truncated={"type": "boolean"},
        ),
        "body",
        "body_base64",
    ),
    "CallbackState": _object(
        "How the report of the task's end is doing.",
        state={"enum": ["none", "pending", "delivered", "failed"]},
        attempt_count=_COUNT,
        next_attempt_at=_TIME_OR_NULL,
        reason=_TEXT_OR_NULL,
    ),
    "TaskList": _object(
        "Newest first.", tasks={"type": "array", "items": ref("Summary")}, next_page_token=_TEXT_OR_NULL
    ),
    "QueueList": _object(
        "In the order of relay.yaml.",
        queues={"type": "array", "items": ref("Queue")},
    ),
    "Queue": _may_lack(
        _object(
            "A queue as Cloud Tasks sees it; null where it did not say, with `detail` where it could not be asked.",
            queue=_TEXT,
            **{"for": {"enum": ["calls", "callbacks"]}},
            state={"enum": ["RUNNING", "PAUSED", "DISABLED", None]},
            max_dispatches_per_second={"type": ["number", "null"]},
            max_concurrent_dispatches=_COUNT_OR_NULL,
            tasks_count={**_COUNT_OR_NULL, "description": "Waiting, retried or being dispatched."},
            oldest_estimated_arrival_time={
                **_TIME_OR_NULL,
                "description": "When the task is, or was, due that comes next.",
            },
            executed_last_minute_count=_COUNT_OR_NULL,
            concurrent_dispatches_count=_COUNT_OR_NULL,
            detail=_TEXT,
        ),
        "detail",
    ),
    "BatchRequest": {
        "type": "object",
        "properties": {"tasks": {"type": "array", "maxItems": 100, "items": ref("EnqueueRequest")}},
        "required": ["tasks"],
        "additionalProperties": False,
    },
    "BatchAnswer": _object(
        "One receipt or problem for each task, in their order.",
        tasks={"type": "array", "items": {"anyOf": [ref("Receipt"), ref("Problem")]}},
    ),
    "Health": _object("How the service is.", status={"enum": ["ok", "ready", "unavailable"]}),
    "Problem": _may_lack(
        _object(
            "An error (RFC 9457).",
            type=_TEXT,
            title=_TEXT,
            status={"type": "integer"},
            detail=_TEXT,
            errors={"type": "array", "items": _object("A field and its rule.", field=_TEXT, message=_TEXT)},
        ),
        "errors",
    ),
}


def schemas() -> dict[str, Schema]:
    """All components by name."""
    # The form that is written out, because its defaults are what a caller would write ("5m", not 300.0).
    _, definitions = models_json_schema(
        [(EnqueueRequest, "serialization"), (RetryPolicy, "serialization")],
        ref_template="#/components/schemas/{model}",
    )
    parts: dict[str, Schema] = definitions["$defs"]
    wishes = {name: _with_nulls(parts[name]) for name in ("EnqueueRequest", "RetryRequest", "Callback")}
    return parts | wishes | _ANSWERS


def _with_nulls(schema: Schema) -> Schema:
    """A caller may give null for each field that is not required, each header and each label: it is not given then."""
    fields = {
        name: field if name in schema.get("required", ()) else _or_null(field)
        for name, field in schema["properties"].items()
    }
    return schema | {"properties": fields}


def _or_null(field: Schema) -> Schema:
    if isinstance(field.get("additionalProperties"), dict):
        field = field | {"additionalProperties": _or_null(field["additionalProperties"])}
    if "type" not in field:
        return field  # any value, or null among others already
    taken = {"enum": [*field["enum"], None]} if "enum" in field else {}
    return field | taken | {"type": [field["type"], "null"]}
