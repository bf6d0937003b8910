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
