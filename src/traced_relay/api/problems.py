"""Errors as problem details (RFC 9457), with one table from errors to status codes."""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from typing import TYPE_CHECKING

from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.wrappers import Response

from traced_relay.errors import (
    EnqueueFailed,
    FieldError,
    InvalidCall,
    NotAuthorized,
    NotFound,
    RelayError,
    TooManyRequests,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from traced_relay.tasks.api_types import Problem


def problem(status: int, detail: str, errors: Sequence[FieldError] = (), *, challenge: str | None = None) -> Response:
    document = document_of(status, detail, errors)
    headers = {"Cache-Control": "no-store"}
    if challenge or status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = challenge or "Bearer"
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        headers["Retry-After"] = "5"
    return Response(json.dumps(document), status, headers, content_type="application/problem+json")


def document_of(status: int, detail: str, errors: Sequence[FieldError] = ()) -> Problem:
    document: Problem = {
        "type": "about:blank",
        "title": HTTP_STATUS_CODES[status],
        "status": status,
        "detail": detail,
    }
    if errors:
        document["errors"] = [{"field": error.field, "message": error.message} for error in errors]
    return document


def refusal(error: NotAuthorized) -> Response:
    """The response to a request that failed authentication."""
    return problem(error.status, str(error), challenge=_challenge(error))


def _challenge(error: NotAuthorized) -> str | None:
    """`WWW-Authenticate` for a refused token (RFC 6750, section 3); None if the refusal is not about a token."""
    if error.reason == "no_token" or (error.status == HTTPStatus.FORBIDDEN and error.email is None):
        return None
    code = "invalid_token" if error.status == HTTPStatus.UNAUTHORIZED else "insufficient_scope"
    description = re.sub(r"[^ !#-[\]-~]", "?", str(error))
    return f'Bearer error="{code}", error_description="{description}"'


def status_of(error: RelayError) -> int:
    match error:
        case InvalidCall() | NotAuthorized():
            return error.status
        case NotFound():
            return HTTPStatus.NOT_FOUND
        case TooManyRequests():
            return HTTPStatus.TOO_MANY_REQUESTS
        case Unavailable() | EnqueueFailed():
            return HTTPStatus.SERVICE_UNAVAILABLE
    return HTTPStatus.INTERNAL_SERVER_ERROR


def detail_of(error: RelayError) -> str:
    """The detail for the caller; internals of a failure are only in the log."""
    match error:
        case InvalidCall():
            return error.detail
        case EnqueueFailed():
            return "the queue refused the task; nothing was enqueued"
        case Unavailable():
            return "the ledger, the queue or the certificates are unreachable; try again"
    return str(error)


def fields_of(error: RelayError) -> Sequence[FieldError]:
    return error.errors if isinstance(error, InvalidCall) else ()
