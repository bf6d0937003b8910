"""What a relay's problem means to whoever asked: the way back from problem details to our errors. Pure."""

from __future__ import annotations

from traced_relay.errors import (
    FieldError,
    InvalidCall,
    NotAuthorized,
    NotFound,
    RelayError,
    Unavailable,
    UnexpectedAnswer,
)


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
    found = []
    for error in errors if isinstance(errors, list) else ():
        match error:
            case {"field": str(field), "message": str(message)}:
                found.append(FieldError(field, message))
    return tuple(found)
