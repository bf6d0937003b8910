"""Problem details of a relay back into errors. Pure."""

from __future__ import annotations

from traced_relay.errors import (
    FieldError,
    InvalidCall,
    NotAuthorized,
    NotFound,
    RelayError,
    Unavailable,
    UnexpectedResponse,
)


def error_of(document: object) -> RelayError:
    """The error that the problem *document* was made from; UnexpectedResponse for any other document."""
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
            return UnexpectedResponse(f"the relay answered {status}: {detail[:200]}")
    return UnexpectedResponse("the response is not from a relay")


def _fields(errors: object) -> tuple[FieldError, ...]:
    found = []
    for error in errors if isinstance(errors, list) else ():
        match error:
            case {"field": str(field), "message": str(message)}:
                found.append(FieldError(field, message))
    return tuple(found)
