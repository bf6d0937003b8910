"""The contract's log records: events, their severities, and the JSON object that Cloud Logging reads. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from msgspec import Struct

from traced_relay.formats.durations import format_time


@dataclass(frozen=True)
class Identity:
    """The fields of every record; *project* makes the trace id a link."""

    project: str
    version: str
    instance: str


class TraceRef(Struct, frozen=True):
    trace_id: str  # 32 lower-case hex digits
    span_id: str  # 16
    sampled: bool


PRODUCER = "traced-relay"
MAX_TEXT_BYTES = 64 * 1024  # Cloud Logging refuses entries over 256 KB
_TRUNCATED = " [cut]"
_TRACE, _SPAN_ID, _SAMPLED, _OPERATION, _LABELS, _INSERT_ID = (
    f"logging.googleapis.com/{name}" for name in ("trace", "spanId", "trace_sampled", "operation", "labels", "insertId")
)

_SEVERITIES = {
    "task.enqueued": "INFO",
    "attempt.started": "INFO",
    "attempt.heartbeat": "INFO",
    "attempt.interrupted": "WARNING",
    "attempt.finished": "INFO",
    "task.finished": "INFO",
    "task.cancelled": "NOTICE",
    "task.redriven": "NOTICE",
    "dispatch.rejected": "WARNING",
    "enqueue.rejected": "WARNING",
    "downstream.denied": "WARNING",
    "dispatch.deferred": "INFO",
    "relay.started": "INFO",
    "relay.stopping": "INFO",
    "relay.swept": "INFO",
    "telemetry.dropped": "WARNING",
}
EVENTS = tuple(_SEVERITIES)
_SEVERITIES_BY_FIELD = {
    "attempt.finished": ("verdict", {"retry": "WARNING", "gave_up": "ERROR"}),
    "task.finished": ("state", {"failed": "ERROR"}),
    "dispatch.rejected": ("reason", {"unreadable": "ERROR", "unknown_task": "ERROR"}),
}
_REPEATABLE = {"task.enqueued", "attempt.finished", "task.finished"}
_COMMIT_EVENTS = ("task.", "attempt.started", "attempt.finished")
_UNVERIFIED = {"dispatch.rejected", "enqueue.rejected"}  # their queue and names are what the sender claims
_LABELLED = ("queue", "kind", "task_id")


def is_commit_event(event: str) -> bool:
    """Whether the record reports a change that the ledger has committed."""
    return event.startswith(_COMMIT_EVENTS)


def severity_of(event: str, fields: Mapping[str, object]) -> str:
    field, severities = _SEVERITIES_BY_FIELD.get(event, ("", {}))
    return severities.get(str(fields.get(field)), _SEVERITIES.get(event, "INFO"))


def record(
    event: str,
    fields: Mapping[str, object],
    *,
    message: str,
    at: float,
    identity: Identity,
    trace: TraceRef | None,
    labels: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """*fields* come first, so they cannot replace what Cloud Logging reads; the caller's *labels* get a prefix."""
    entry: dict[str, Any] = {
        "event": event,
        **{name: as_json(value) for name, value in fields.items()},
        "version": identity.version,
        "instance": identity.instance,
        "severity": severity_of(event, fields),
        "time": format_time(at),
        "message": truncate(message),
    }
    if "httpRequest" in entry:
        entry["httpRequest"] = _without_query(entry["httpRequest"])
    if trace is not None:
        entry[_TRACE] = f"projects/{identity.project}/traces/{trace.trace_id}"
        entry[_SPAN_ID] = trace.span_id
        entry[_SAMPLED] = trace.sampled
    if event not in _UNVERIFIED and "task_id" in entry:
        entry[_OPERATION] = _operation(event, entry["task_id"])
    entry[_LABELS] = _labels(event, entry)
    for name, value in (labels or {}).items():
        entry[_LABELS][f"label.{name}"] = truncate(value)
    if insert_id := _insert_id(event, entry):
        entry[_INSERT_ID] = insert_id
    return entry


def _without_query(request: dict[str, Any]) -> dict[str, Any]:
    url = str(request.get("requestUrl", ""))
    return request | {"requestUrl": url.partition("?")[0].partition("#")[0]}


def _operation(event: str, task_id: str) -> dict[str, Any]:
    ends = {"task.enqueued": {"first": True}, "task.finished": {"last": True}}
    return {"id": task_id, "producer": PRODUCER} | ends.get(event, {})


def _labels(event: str, entry: Mapping[str, Any]) -> dict[str, str]:
    names = () if event in _UNVERIFIED else _LABELLED
    return {"event": event} | {name: str(entry[name]) for name in names if entry.get(name) is not None}


def _insert_id(event: str, entry: Mapping[str, Any]) -> str | None:
    """The same for a record that is written again after a crash; Cloud Logging keeps one of them."""
    if event not in _REPEATABLE or "task_id" not in entry:
        return None
    parts = [event, entry["task_id"], f"r{entry.get('round', 1)}"]
    return "-".join([*parts, f"a{entry.get('attempt')}"] if event == "attempt.finished" else parts)


def as_json(value: object) -> Any:
    """The value in JSON types; other values, NaN and infinities become strings."""
    try:
        return _plain(value)
    except Exception:  # noqa: BLE001  (a recursive value, or one whose __str__ raises)
        return f"<{type(value).__name__}>"


def as_text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001  (__str__ raises, also of an int with too many digits)
        return f"<{type(value).__name__}>"


def truncate(text: str) -> str:
    """At most 64 KiB of UTF-8; surrogates become question marks."""
    if text.isascii() and len(text) <= MAX_TEXT_BYTES:
        return text
    encoded = text.encode(errors="replace")
    if len(encoded) <= MAX_TEXT_BYTES:
        return encoded.decode()
    return encoded[: MAX_TEXT_BYTES - len(_TRUNCATED)].decode(errors="ignore") + _TRUNCATED


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind is str:
        return truncate(value)
    if value is None or kind is bool:
        return value
    if kind is dict:
        return {truncate(as_text(key)): _plain(item) for key, item in value.items()}
    match value:
        case str():
            return truncate(str.__str__(value))
        case int():
            return int(value) if value.bit_length() < 64 else as_text(value)
        case float():
            return float(value) if isfinite(value) else str(value)
        case Mapping():
            return {truncate(as_text(key)): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return truncate(as_text(value))
