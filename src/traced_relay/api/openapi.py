"""The API as an OpenAPI 3.1 document, for `GET /openapi.json`. Pure; it describes every public path and no other."""

from __future__ import annotations

from typing import Any

from traced_relay.api.schemas import MAX_BATCH, Schema, fields, ref, schema_of, schemas
from traced_relay.tasks.api_types import ListQuery, TaskId
from traced_relay.version import __version__

_PROBLEMS = {
    400: "The content is not JSON, or `Idempotency-Key` holds two different keys",
    401: "No valid ID token; `detail` and `WWW-Authenticate` name the rule that the token breaks",
    403: "The account is not a caller of this relay, or lacks permission for this request",
    404: "The task does not exist, or it is another caller's",
    409: "The task's state does not allow the request",
    413: "The content is 900 kB or more",
    415: "The content type is not application/json, or the content has a content coding: then the response has "
    "`Accept-Encoding: identity`",
    422: "A field or parameter breaks a rule; `errors` names it",
    429: "Too many of the caller's lists at once; retry after `Retry-After` seconds",
    501: "The transfer coding is not chunked",
    503: "The ledger, the queue or the certificates are unreachable; retry after `Retry-After` seconds",
}
_REFUSED = (401, 403, 503)
_UNREADABLE = (400, 413, 415, 422, 501)

_ACTIONS = (
    (
        "cancel",
        "Cancel a queued, waiting or running task",
        {
            202: ("Cancelled; a running call is aborted within 10 s", "Status"),
            200: ("The task was already cancelled", "Status"),
        },
    ),
    ("redrive", "Start a new round of a failed or cancelled task", {202: ("The task is queued again", "Status")}),
    (
        "resend-callback",
        "Deliver the last round's callback again, with the same id and body",
        {202: ("The callback is queued again", "Status")},
    ),
)


def document() -> dict[str, Any]:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "traced-relay",
            "version": __version__,
            "summary": "Hands slow HTTP calls to Cloud Tasks and records every attempt.",
            "description": "Fields are in snake_case. Durations are strings such as `30s`, `1.5s`, `5m`, `24h` and "
            "`7d`; times are RFC 3339 in UTC. Errors are problem details (RFC 9457).",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": _paths(),
        "components": {
            "schemas": schemas(),
            "securitySchemes": {
                "id_token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "A Google ID token whose audience is the one in relay.yaml.",
                }
            },
        },
        "security": [{"id_token": []}],
    }


def _paths() -> dict[str, Any]:
    return {
        "/v1/tasks": {
            "post": _operation(
                "enqueue",
                "Enqueue a call",
                {202: ("Accepted: the task is stored and queued", "Receipt")},
                problems=(*_UNREADABLE, *_REFUSED),
                parameters=_enqueue_headers(),
                body="EnqueueRequest",
            ),
            "get": _operation(
                "list",
                "List tasks, newest first; one `label.NAME=VALUE` selects by a label",
                {200: ("A page of tasks", "TaskList")},
                problems=(422, 429, *_REFUSED),
                parameters=[_parameter(name, "query", schema) for name, schema in fields(ListQuery).items()],
            ),
        },
        "/v1/tasks:batch": {
            "post": _operation(
                "enqueue_batch",
                f"Enqueue up to {MAX_BATCH} calls",
                {200: ("One receipt or problem for each call, in order", "BatchResponse")},
                problems=(*_UNREADABLE, *_REFUSED),
                parameters=_enqueue_headers(),
                body="BatchRequest",
            )
        },
        "/v1/tasks/{task_id}": {
            "get": _operation(
                "status",
                "Get a task with its attempts",
                {200: ("The task", "Status")},
                problems=(404, 422, 429, *_REFUSED),
                parameters=[_task_id()],
            )
        },
        **{
            f"/v1/tasks/{{task_id}}:{action}": {
                "post": _operation(
                    action.replace("-", "_"),
                    summary,
                    responses,
                    problems=(404, 409, 415, 422, 429, 501, *_REFUSED),
                    parameters=[_task_id()],
                )
            }
            for action, summary, responses in _ACTIONS
        },
        "/v1/queues": {
            "get": _operation(
                "queues",
                "List the queues with their statistics, at most 2 s old; operators only",
                {200: ("The queues of relay.yaml", "QueueList")},
                problems=_REFUSED,
            )
        },
        "/health": {"get": _open("health", "Liveness probe", {200: ("The process is alive", "Health")})},
        "/ready": {
            "get": _open(
                "ready",
                "Readiness probe",
                {
                    200: ("The ledger accepts writes and Cloud Tasks responds", "Health"),
                    503: ("The ledger or Cloud Tasks does not respond, or the process is stopping", "Health"),
                },
            )
        },
        "/openapi.json": {
            "get": {
                "operationId": "openapi",
                "summary": "Get this document",
                "security": [],
                "responses": {"200": {"description": "OpenAPI 3.1", "content": _json({"type": "object"})}},
            }
        },
    }


def _operation(
    name: str,
    summary: str,
    responses: dict[int, tuple[str, str]],
    *,
    problems: tuple[int, ...] = (),
    parameters: list[dict[str, Any]] | None = None,
    body: str | None = None,
) -> dict[str, Any]:
    described = {str(code): {"description": text, "content": _json(ref(of))} for code, (text, of) in responses.items()}
    content = {"application/problem+json": {"schema": ref("Problem")}}
    described |= {str(code): {"description": _PROBLEMS[code], "content": content} for code in problems}
    operation: dict[str, Any] = {"operationId": name, "summary": summary, "responses": described}
    if parameters:
        operation["parameters"] = parameters
    if body:
        operation["requestBody"] = {"required": True, "content": _json(ref(body))}
    return operation


def _open(name: str, summary: str, responses: dict[int, tuple[str, str]]) -> dict[str, Any]:
    """An operation that needs no ID token."""
    return {**_operation(name, summary, responses), "security": []}


def _json(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _parameter(name: str, location: str, schema: Schema, *, required: bool = False) -> dict[str, Any]:
    bare = {keyword: value for keyword, value in schema.items() if keyword != "description"}
    described = {"name": name, "in": location, "description": schema["description"]}
    return described | {"required": required, "schema": bare}


def _text(description: str, example: str) -> Schema:
    return {"type": "string", "description": description, "examples": [example]}


def _task_id() -> dict[str, Any]:
    text = "The id, or its first digits, at least 4, if no other task that you may see starts with them."
    return _parameter("task_id", "path", _text(text, schema_of(TaskId)["examples"][0]), required=True)


def _enqueue_headers() -> list[dict[str, Any]]:
    key = (
        "Makes a retry safe: the same caller, key and content give the same task. 1 to 255 printable ASCII characters, "
        'bare or as a quoted string (RFC 9651): k and "k" are the same key. A key with a comma must be quoted.'
    )
    traceparent = "The trace to continue (W3C Trace Context)."
    return [
        _parameter("Idempotency-Key", "header", _text(key, "report-7")),
        _parameter(
            "traceparent", "header", _text(traceparent, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        ),
        _parameter(
            "tracestate", "header", _text("Vendor data of that trace (W3C Trace Context).", "congo=t61rcWkgMzE")
        ),
    ]
