"""External data read into models: one error a field, in plain words, without any header, body or query."""

from __future__ import annotations

from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError, WithJsonSchema

from traced_relay.errors import FieldError, InvalidCall
from traced_relay.formats.durations import format_duration, parse_duration, parse_time

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["30s", "1.5s", "5m", "24h", "7d"]}),
]


Time = Annotated[float, BeforeValidator(parse_time), WithJsonSchema({"type": "string", "format": "date-time"})]


class Model(BaseModel):
    """Strict and frozen; an unknown field is an error."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


M = TypeVar("M", bound=Model)

_LONGEST = 60  # characters of a value that an error shows

_DURATIONS = {
    *("timeout", "delay", "max_retry_duration", "min_backoff", "max_backoff"),
    *("heartbeat", "max_timeout", "retention", "sweep_every", "callback_first_wait"),
}
_TIMES = {"schedule_time"}
_KINDS = {
    "string_type": "a string",
    "int_type": "an integer",
    "bool_type": "true or false",
    "float_type": "a number",
    "dict_type": "an object",
    "model_type": "an object",
    "tuple_type": "a list",
    "list_type": "a list",
}
_NAMES = {
    NoneType: "null",
    int: "a number",
    float: "a number",
    str: "a string",
    dict: "an object",
    list: "a list",
    tuple: "a list",
}
_LIMITS = {"greater_than_equal": "at least", "less_than_equal": "at most", "greater_than": "more than"}


def quoted(value: object) -> str:
    """A *value* as an error shows it: of a string the beginning, in ASCII, of anything else its kind."""
    if not isinstance(value, str):
        return _kind_of(value)
    return ascii(value) if len(value) <= _LONGEST else f"{value[:_LONGEST]!a} and {len(value) - _LONGEST} more"


def read(model: type[M], document: Any, prefix: str = "") -> M:
    """*document* as a *model*; InvalidCall if it is invalid, with field names after *prefix*."""
    try:
        return model.model_validate(document)
    except ValidationError as exc:
        found = [error for error in exc.errors(include_url=False) if not _follows_from_others(error)]
        found.sort(key=lambda error: error["type"] != "extra_forbidden")  # a misspelt name explains one that is missing
        raise invalid_call([_translated(error, prefix) for error in found]) from None


def invalid_call(errors: list[FieldError]) -> InvalidCall:
    unique = tuple(dict.fromkeys(errors))
    return InvalidCall("; ".join(f"{e.field} {e.message}" for e in unique[:3]), errors=unique[:50])


def _follows_from_others(error: ErrorDetails) -> bool:
    """Whether a list is too short only because pydantic does not count the items that have errors of their own."""
    return error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"]


def _translated(error: ErrorDetails, prefix: str) -> FieldError:
    path = [str(part) for part in error["loc"] if part != "[key]"]
    message = _message(error, path[-1] if path else "")
    if not path and ": must " in message:
        # pydantic assigns a rule over two fields to none of them, so the rule's text starts with the field.
        name, message = message.split(": ", 1)
        path = [name]
    return FieldError((prefix + ".".join(path))[:300] or "request", message)


def _message(error: ErrorDetails, field: str) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind in _KINDS:
        return f"must be {_KINDS[kind]}, got {_kind_of(error['input'])}"
    if kind in _LIMITS:
        (limit,) = context.values()
        return f"must be {_LIMITS[kind]} {_shown(field, limit)}, got {_shown(field, error['input'])}"
    match kind:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return "is not a known field"
        case "literal_error":
            return f"must be one of {context['expected']}, got {quoted(error['input'])}"
        case "string_unicode":
            return "must be valid Unicode, without lone surrogates"
        case "value_error":
            message = str(context["error"])
            is_shown = field in _DURATIONS | _TIMES and ", got " not in message
            return f"{message}, got {quoted(error['input'])}" if is_shown else message
        case "string_too_long" | "too_long":
            return f"must be at most {context['max_length']} long, got {len(error['input'])}"
        case "string_too_short" | "too_short":
            return f"must be at least {context['min_length']} long, got {len(error['input'])}"
    return f"is not valid: {error['msg']}"


def _kind_of(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return _NAMES.get(type(value), f"a {type(value).__name__}")  # YAML has dates, too


def _shown(field: str, value: Any) -> str:
    return format_duration(value) if field in _DURATIONS and isinstance(value, (int, float)) else str(value)[:40]
