"""What a relay's answers must look like for whoever reads them on: the fields that are read, and of what type. Pure."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from traced_relay.formats.durations import parse_time

if TYPE_CHECKING:
    from collections.abc import Callable

    Check = Callable[[Any], bool]

_LARGEST = 2**53  # what every JSON reader takes for the same number (RFC 8259, section 6)


def fits(value: object, shape: Any) -> bool:
    """An object of a shape has its names and perhaps more; a list has items of its one shape; all else is a check."""
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(name in value and fits(value[name], shape[name]) for name in shape)
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(item, shape[0]) for item in value)
    return bool(shape(value))


def _or_null(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _text(value: Any) -> bool:
    """Without lone surrogates, which no terminal and no URL can be given."""
    return isinstance(value, str) and (value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value))


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and isfinite(value) and abs(value) <= _LARGEST


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST


def _time(value: Any) -> bool:
    try:
        parse_time(value)
    except ValueError:
        return False
    return True


def _link(value: Any) -> bool:
    try:
        urlsplit(value).port  # noqa: B018  (reads what else is read by whoever follows it)
    except (AttributeError, TypeError, ValueError):
        return False
    return _text(value)


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_text, value.values()))


def _response(value: Any) -> bool:
    return fits(value, {"status_code": _count, "headers": _texts, "truncated": lambda _: True}) and (
        _text(value.get("body")) or _text(value.get("body_base64"))
    )


_LINKS = {"status": _link, "trace": _link, "logs": _link}
_RECEIPT = dict.fromkeys(("task_id", "task_name", "queue", "state", "trace_id"), _text)
RECEIPT = _RECEIPT | {"schedule_time": _time, "links": _LINKS | {"status": _or_null(_link)}}
SUMMARY = {
    **dict.fromkeys(("task_id", "kind", "queue", "state", "url", "method", "trace_id"), _text),
    **dict.fromkeys(("rule", "reason", "blame"), _or_null(_text)),
    **dict.fromkeys(("created_at", "schedule_time"), _time),
    **dict.fromkeys(("finished_at", "next_attempt_at", "heartbeat_at", "cancel_requested_at"), _or_null(_time)),
    **dict.fromkeys(("round", "attempt", "retry_count"), _count),
    "labels": _texts,
    "total_ms": _or_null(_number),
    "retry": lambda value: isinstance(value, dict),
    "callback": {"state": _text, "attempt_count": _count},
    "links": _LINKS,
}
_ATTEMPT = {
    **dict.fromkeys(("attempt", "round"), _count),
    **dict.fromkeys(("task_name", "span_id"), _text),
    **dict.fromkeys(("verdict", "reason", "blame", "delay_reason"), _or_null(_text)),
    **dict.fromkeys(("queue_delay_ms", "latency_ms", "retry_delay_ms"), _or_null(_number)),
    "started_at": _time,
    "ended_at": _or_null(_time),
    "status_code": _or_null(_count),
}
STATUS = SUMMARY | {"attempts": [_ATTEMPT], "response": _or_null(_response)}
PAGE = {"tasks": [SUMMARY]}
BATCH = {"tasks": [lambda item: isinstance(item, dict) and ("task_id" not in item or fits(item, RECEIPT))]}
QUEUES = {"queues": [{"queue": _text, "oldest_estimated_arrival_time": _or_null(_time)}]}
