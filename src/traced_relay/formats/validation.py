"""Where outside data becomes our values: one clear error a field, in our words, and nothing of what was sent."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from traced_relay.errors import FieldError, InvalidCall
from traced_relay.formats.durations import format_duration
from traced_relay.tasks import header_policy
from traced_relay.tasks.call import Callback, EnqueueRequest, Model, RetryPolicy

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

M = TypeVar("M", bound=Model)

_PARTS: dict[str, type[Model]] = {"retry": RetryPolicy, "callback": Callback}
_STRING = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_STRINGS = re.compile(rf"{_STRING.pattern}(?:[ \t]*,[ \t]*{_STRING.pattern})*")
_DURATIONS = {
    *("timeout", "delay", "max_retry_duration", "min_backoff", "max_backoff"),
    *("heartbeat", "max_timeout", "retention", "sweep_every", "callback_first_wait"),
}
_KINDS = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "bool_type": "true or false",
    "float_type": "a number",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "tuple_type": "a list",
    "list_type": "a list",
}


def enqueue_request(document: Any) -> EnqueueRequest:
    """The request that a parsed JSON *document* holds, or InvalidCall with every rule it breaks."""
    errors = []
    try:
        request = read(EnqueueRequest, document)
        errors = list(header_policy.broken_rules(request.headers))
    except InvalidCall as exc:
        given = document.get("headers") if isinstance(document, dict) else None
        if isinstance(given, dict) and all(isinstance(value, str) for value in given.values()):
            errors = list(header_policy.broken_rules(given))
        raise refusal([*exc.errors, *errors]) from None
    if errors:
        raise refusal(errors)
    return request


def given(model: type[Model], document: Any) -> Any:
    """
    The *document* without its nulls, which mean "not given"; a null inside a body is the caller's own.

    A null under a name that the *model* does not have stays, so that the name is refused.
    """
    if not isinstance(document, dict):
        return document
    kept = {name: value for name, value in document.items() if value is not None or name not in model.model_fields}
    for name in ("headers", "labels"):
        if isinstance(kept.get(name), dict):
            kept[name] = {inner: value for inner, value in kept[name].items() if value is not None}
    return kept | {name: given(part, kept[name]) for name, part in _PARTS.items() if name in kept}


def idempotency_key(field: str | None) -> str | None:
    """
    The key in an `Idempotency-Key` *field*, whose lines are joined by commas.

    A quoted key is a string of RFC 9651, and the same key as its text without quotes. Only a quoted key holds a comma.
    """
    if field is None:
        return None
    lines = [found[0] for found in _STRING.finditer(field)] if _STRINGS.fullmatch(field) else field.split(",")
    keys = {_key(line.strip(" \t")) for line in lines}
    if len(keys) > 1:
        raise InvalidCall("Idempotency-Key: must be one key; a key with a comma must be in double quotes", status=400)
    (key,) = keys
    if not re.fullmatch(r"[\x20-\x7e]{1,255}", key):
        raise refusal([FieldError("Idempotency-Key", "must be 1 to 255 printable ASCII characters, quoted or bare")])
    return key


def _key(line: str) -> str:
    """The key of one line; empty if it begins with a quote and is no string."""
    if not line.startswith('"'):
        return line
    string = _STRING.fullmatch(line)
    return re.sub(r"\\(.)", r"\1", string[1]) if string else ""


def read(model: type[M], document: Any, prefix: str = "") -> M:
    """The *model* that *document* holds; fields in errors start with *prefix*."""
    try:
        return model.model_validate(document)
    except ValidationError as exc:
        raise refusal([_translated(error, prefix) for error in exc.errors(include_url=False)]) from None


def refusal(errors: list[FieldError]) -> InvalidCall:
    unique = tuple(dict.fromkeys(errors))
    return InvalidCall("; ".join(f"{e.field} {e.message}" for e in unique[:3]), errors=unique[:50])


def _translated(error: ErrorDetails, prefix: str) -> FieldError:
    path = [str(part) for part in error["loc"] if part != "[key]"]
    message = _message(error, path[-1] if path else "")
    if not path and ": must " in message:
        # A rule over two fields cannot say in pydantic where it belongs, so its text starts with the field.
        name, message = message.split(": ", 1)
        path = [name]
    return FieldError((prefix + ".".join(path))[:300] or "request", message)


def _message(error: ErrorDetails, field: str) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind in _KINDS:
        return f"must be {_KINDS[kind]}"
    match kind:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return "is not a known field"
        case "literal_error":
            return f"must be one of {context['expected']}"
        case "string_unicode":
            return "must be valid Unicode, without lone surrogates"
        case "value_error":
            return str(context["error"])
        case "greater_than_equal" | "less_than_equal" | "greater_than":
            word, limit = _limit(kind, context)
            return f"must be {word} {_shown(field, limit)}, got {_shown(field, error['input'])}"
        case "string_too_long" | "too_long":
            return f"must be at most {context['max_length']} long"
        case "string_too_short" | "too_short":
            return f"must be at least {context['min_length']} long"
    return f"is not valid: {error['msg']}"


def _limit(kind: str, context: dict[str, Any]) -> tuple[str, float]:
    word = {"greater_than_equal": "at least", "less_than_equal": "at most", "greater_than": "more than"}[kind]
    return word, next(iter(context.values()))


def _shown(field: str, value: Any) -> str:
    return format_duration(value) if field in _DURATIONS and isinstance(value, (int, float)) else str(value)[:40]
