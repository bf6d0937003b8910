"""The API as an OpenAPI 3.1 document, for `GET /openapi.json`. Pure; says what is served and nothing else."""

from __future__ import annotations

from typing import Any

from traced_relay.api.schemas import Schema, ref, schemas
from traced_relay.tasks.states import STATES
from traced_relay.version import __version__

_PROBLEMS = {
    400: "Not JSON, or two different keys in `Idempotency-Key`",
    401: "No valid ID token; `detail` and `WWW-Authenticate` name the rule that it breaks",
    403: "Not a caller of this relay, or not one who may",
    404: "No such task, or not yours",
    409: "The task's state does not allow it",
    413: "Larger than 900 kB",
    415: "Not application/json, or in a content coding: then `Accept-Encoding: identity` is in the answer",
    422: "A field breaks a rule; `errors` names it",
    501: "In a transfer coding other than chunked",
    503: "Ledger or queue out of reach; try again",
}
_KEY = (
    "Makes asking again harmless: the same caller, key and content give the same task. 1 to 255 printable ASCII "
    'characters, bare or as a quoted string (RFC 9651): k and "k" are the same key. A key with a comma is quoted.'
)
_REFUSED = (401, 403, 503)
_UNREADABLE = (400, 413, 415, 422, 501)


_VERBS = (
    (
        "cancel",
        "End a task that waits or runs",
        {202: ("Cancelled; a running call is cut within 10 s", "Status"), 200: ("It was cancelled before", "Status")},
    ),
    ("redrive", "Start a new round of a failed or cancelled task", {202: ("Queued again", "Status")}),
    ("resend-callback", "Tell the last round's end again", {202: ("The callback is queued again", "Status")}),
)


def document() -> dict[str, Any]:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "traced-relay",
            "version": __version__,
            "summary": "Hand slow HTTP calls to Cloud Tasks and keep sight of them.",
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
                {202: ("Accepted: row and task exist", "Receipt")},
                problems=(*_UNREADABLE, *_REFUSED),
                parameters=_enqueue_headers(),
                body="EnqueueRequest",
            ),
            "get": _operation(
                "list",
                "List tasks, newest first; `label.NAME=VALUE` selects by one label",
                {200: ("A page", "TaskList")},
                problems=(422, *_REFUSED),
                parameters=_filters(),
            ),
        },
        "/v1/tasks:batch": {
            "post": _operation(
                "enqueue_batch",
                "Enqueue up to 100 calls",
                {200: ("One receipt or problem each", "BatchAnswer")},
                problems=(*_UNREADABLE, *_REFUSED),
                parameters=_enqueue_headers(),
                body="BatchRequest",
            )
        },
        "/v1/tasks/{task_id}": {
            "get": _operation(
                "status",
                "One task with its attempts",
                {200: ("The task", "Status")},
                problems=(404, 422, *_REFUSED),
                parameters=[_task_id()],
            )
        },
        **_verbs(),
        "/v1/queues": {
            "get": _operation(
                "queues",
                "How each queue is; for operators, a few seconds old at most",
                {200: ("Every queue of relay.yaml", "QueueList")},
                problems=_REFUSED,
            )
        },
        **_service(),
    }


def _verbs() -> dict[str, Any]:
    return {
        f"/v1/tasks/{{task_id}}:{verb}": {
            "post": _operation(
                verb.replace("-", "_"),
                summary,
                answers,
                problems=(404, 409, 415, 422, 501, *_REFUSED),
                parameters=[_task_id()],
            )
        }
        for verb, summary, answers in _VERBS
    }


def _service() -> dict[str, Any]:
    return {
        "/health": {"get": _open("health", "Whether the process lives", {200: ("It does", "Health")})},
        "/ready": {
            "get": _open(
                "ready",
                "Readiness",
                {
                    200: ("The ledger takes writes and the queue answers", "Health"),
                    503: ("One of them does not, or the process is stopping", "Health"),
                },
            )
        },
        "/openapi.json": {
            "get": {
                "operationId": "openapi",
                "summary": "This document",
                "security": [],
                "responses": {"200": {"description": "OpenAPI 3.1", "content": _json({"type": "object"})}},
            }
        },
    }


def _operation(
    name: str,
    summary: str,
    answers: dict[int, tuple[str, str]],
    *,
    problems: tuple[int, ...] = (),
    parameters: list[dict[str, Any]] | None = None,
    body: str | None = None,
) -> dict[str, Any]:
    responses = {str(code): {"description": text, "content": _json(ref(of))} for code, (text, of) in answers.items()}
    content = {"application/problem+json": {"schema": ref("Problem")}}
    responses |= {str(code): {"description": _PROBLEMS[code], "content": content} for code in problems}
    operation: dict[str, Any] = {"operationId": name, "summary": summary, "responses": responses}
    if parameters:
        operation["parameters"] = parameters
    if body:
        operation["requestBody"] = {"required": True, "content": _json(ref(body))}
    return operation


def _open(name: str, summary: str, answers: dict[int, tuple[str, str]]) -> dict[str, Any]:
    return {**_operation(name, summary, answers), "security": []}


def _json(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _parameter(name: str, where: str, schema: Schema, text: str = "", *, required: bool = False) -> dict[str, Any]:
    described = {"description": text} if text else {}
    return {"name": name, "in": where, "required": required, "schema": schema, **described}


def _task_id() -> dict[str, Any]:
    text = "The id, or its first digits, at least 4, if they fit no other task that you may see."
    return _parameter("task_id", "path", {"type": "string"}, text, required=True)


def _enqueue_headers() -> list[dict[str, Any]]:
    return [
        _parameter("Idempotency-Key", "header", {"type": "string"}, _KEY),
        _parameter("traceparent", "header", {"type": "string"}, "The trace to continue (W3C Trace Context)."),
        _parameter("tracestate", "header", {"type": "string"}),
    ]


def _filters() -> list[dict[str, Any]]:
    text: Schema = {"type": "string"}
    return [
        _parameter("kind", "query", {"enum": ["call", "callback"], "default": "call"}),
        _parameter("state", "query", {"enum": list(STATES)}),
        *(_parameter(name, "query", text) for name in ("queue", "rule", "reason", "version")),
        _parameter("since", "query", text, "An RFC 3339 time, or a duration before now."),
        _parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}),
        _parameter("page_token", "query", text, "The `next_page_token` of the page before."),
    ]
