"""Errors as callers see them: problem details (RFC 9457), one table from our errors to status codes."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.wrappers import Response

from traced_relay.errors import (
    EnqueueFailed,
    FieldError,
    InvalidCall,
    NotAuthorized,
    NotFound,
    RelayError,
    Unavailable,
    UnexpectedAnswer,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


def problem(status: int, detail: str, errors: Sequence[FieldError] = ()) -> Response:
    document = document_of(status, detail, errors)
    headers = {"Cache-Control": "no-store"}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "5"
    return Response(json.dumps(document), status, headers, content_type="application/problem+json")


def document_of(status: int, detail: str, errors: Sequence[FieldError] = ()) -> dict[str, Any]:
    document = {"type": "about:blank", "title": HTTP_STATUS_CODES[status], "status": status, "detail": detail}
    if errors:
        document["errors"] = [{"field": error.field, "message": error.message} for error in errors]
    return document


def error_of(document: object) -> RelayError:
    """The error that a problem was made of, for whoever got it; UnexpectedAnswer for what is no problem of ours."""
    match document:
        case {"status": 400 | 409 | 413 | 415 | 422 as status, "detail": str(detail), **rest}:
            return InvalidCall(detail, status=status, errors=_fields(rest.get("errors")))
        case {"status": 401 | 403 as status, "detail": str(detail)}:
            return NotAuthorized(detail, status=status, reason="refused")
        case {"status": 404, "detail": str(detail)}:
            return NotFound(detail)
        case {"status": 503, "detail": str(detail)}:
            return Unavailable(detail)
        case {"status": int(status), "detail": str(detail)}:
            return UnexpectedAnswer(f"the relay answered {status}: {detail[:200]}")
    return UnexpectedAnswer("what answered is no relay")


def _fields(errors: object) -> tuple[FieldError, ...]:
    match errors:
        case [{"field": str(field), "message": str(message)}, *others]:
            return (FieldError(field, message), *_fields(others))
    return ()


def status_of(error: RelayError) -> int:
    match error:
        case InvalidCall() | NotAuthorized():
            return error.status
        case NotFound():
            return HTTPStatus.NOT_FOUND
        case Unavailable() | EnqueueFailed():
            return HTTPStatus.SERVICE_UNAVAILABLE
    return HTTPStatus.INTERNAL_SERVER_ERROR


def detail_of(error: RelayError) -> str:
    """What the caller may know; the inside of a failure stays in the log."""
    match error:
        case InvalidCall():
            return error.detail
        case EnqueueFailed():
            return "the queue refused the task; nothing was enqueued"
        case Unavailable():
            return "the ledger, the queue or the certificates cannot be reached; try again"
    return str(error)


def fields_of(error: RelayError) -> Sequence[FieldError]:
    return error.errors if isinstance(error, InvalidCall) else ()
