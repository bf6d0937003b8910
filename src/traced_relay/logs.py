"""
One JSON object a line, shaped for Cloud Logging.

A record is never lost and never breaks the call it tells of, however odd its values are.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from threading import Lock
from typing import Any, TextIO

import google.cloud.logging_v2
from google.cloud.logging_v2.handlers import StructuredLogHandler

from traced_relay.clock import Clock, SystemClock
from traced_relay.record_text import one_line
from traced_relay.trace_ref import TraceRef

__all__ = ["Identity", "Log", "RecordStore", "TraceRef", "configure"]

PRODUCER = "traced-relay"
LONGEST_TEXT = 64 * 1024  # bytes; Cloud Logging refuses entries over 256 KB
_CUT = " [cut]"
_GOOGLE = "logging.googleapis.com/"

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
_SEVERITIES_BY_FIELD = {
    "attempt.finished": ("verdict", {"retry": "WARNING", "gave_up": "ERROR"}),
    "task.finished": ("state", {"failed": "ERROR"}),
    "dispatch.rejected": ("reason", {"unreadable": "ERROR", "unknown_task": "ERROR"}),
}
_LEVELS = {
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "NOTICE": 25,
    "WARNING": logging.WARNING,
    "ERROR": logging.ERROR,
    "CRITICAL": logging.CRITICAL,
}
_LABELLED = ("queue", "kind", "task_id")
_REPEATABLE = {"task.enqueued", "attempt.finished", "task.finished"}
_CLAIMS = {"dispatch.rejected", "enqueue.rejected"}  # their queue and names are what a stranger wrote


@dataclass(frozen=True)
class Identity:
    """What every record carries; the project makes a trace id a link."""

    project: str
    version: str
    instance: str


class RecordStore:
    """The latest records as they were printed, for whoever shows them beside spans."""

    def __init__(self, limit: int = 10_000) -> None:
        self._entries: deque[dict[str, Any]] = deque(maxlen=limit)
        self._count = 0
        self._lock = Lock()

    def add(self, entry: dict[str, Any]) -> None:
        with self._lock:
            self._entries.append(entry)
            self._count += 1

    def records(self, task_id: str | None = None) -> list[dict[str, Any]]:
        return [entry for entry in self.since(0)[1] if task_id is None or entry.get("task_id") == task_id]

    def since(self, cursor: int) -> tuple[int, list[dict[str, Any]]]:
        """What came after *cursor* and is still kept, with the cursor for the next question; 0 is the beginning."""
        with self._lock:
            new = min(max(self._count - cursor, 0), len(self._entries))
            kept = list(self._entries)
            return self._count, kept[len(kept) - new :]


class Log:
    """Says records on one *stream*, and keeps them in *store* where one is given."""

    def __init__(
        self,
        identity: Identity,
        *,
        stream: TextIO | None = None,
        text: bool = False,
        colour: bool | None = None,
        store: RecordStore | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.identity = identity
        self._clock = clock or SystemClock()
        self.handler = _Handler(stream or sys.stdout, text=text, colour=colour, store=store)

    def say(
        self,
        event: str,
        *,
        message: str,
        fields: Mapping[str, object],
        trace: TraceRef | None = None,
        severity: str | None = None,
        insert_id: str | None = None,
        at: float | None = None,
    ) -> None:
        """
        Print one record of the contract.

        Cloud Logging keeps one of two records with the same *insert_id* and the same time: whoever may have to
        say a thing twice gives *at*, the moment it tells of.
        """
        severity = severity or _severity(event, fields)
        when = self._clock.now() if at is None else at
        said = _Said(event, severity, message, {"event": event, **fields}, when, self.identity, trace, insert_id)
        self.handler.handle(said)

    def close(self) -> None:
        logging.getLogger().removeHandler(self.handler)


def configure(
    identity: Identity,
    *,
    stream: TextIO | None = None,
    text: bool = False,
    colour: bool | None = None,
    store: RecordStore | None = None,
    clock: Clock | None = None,
    level: int = logging.INFO,
) -> Log:
    """Make the process's log: what libraries write through `logging` comes out in the same form and place."""
    log = Log(identity, stream=stream, text=text, colour=colour, store=store, clock=clock)
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(handler)
    root.addHandler(log.handler)
    root.setLevel(level)
    return log


class _Said(logging.LogRecord):
    """A record of ours on its way to the stream; put together there, where a failure is caught."""

    def __init__(
        self,
        event: str,
        severity: str,
        message: str,
        fields: Mapping[str, object],
        when: float,
        identity: Identity,
        trace: TraceRef | None,
        insert_id: str | None,
    ) -> None:
        super().__init__(PRODUCER, _LEVELS.get(severity, logging.INFO), "", 0, message, (), None)
        self.event = event
        self.severity = severity
        self.fields = fields
        self.when = when
        self.identity = identity
        self.trace = trace
        self.insert_id = insert_id


class _Handler(StructuredLogHandler):
    """
    Google's handler, with its own way of putting a record together.

    The original parses messages that look like JSON, loses what it cannot serialise and knows no operation, insertId
    or time. Its filter is left out too: for each record it reads the current request, URL and query included.
    """

    def __init__(self, stream: TextIO, *, text: bool, colour: bool | None, store: RecordStore | None) -> None:
        super().__init__(stream=stream)  # type: ignore[no-untyped-call]
        self.filters.clear()
        self._text = text
        self._colour = stream.isatty() if colour is None else colour
        self._store = store
        google.cloud.logging_v2._instrumentation_emitted = True  # else its first line is a record about itself

    def format(self, record: logging.LogRecord) -> str:
        try:
            entry = _entry(record)
            line = json.dumps(entry, ensure_ascii=True, allow_nan=False)
        except Exception:  # noqa: BLE001  (whatever a value does when it is looked at, the record is not lost)
            entry = _bare(record)
            line = json.dumps(entry)
        if self._store is not None:
            self._store.add(entry)
        return one_line(entry, colour=self._colour) if self._text else line


def _severity(event: str, fields: Mapping[str, object]) -> str:
    field, severities = _SEVERITIES_BY_FIELD.get(event, ("", {}))
    return severities.get(str(fields.get(field)), _SEVERITIES.get(event, "INFO"))


def _entry(record: logging.LogRecord) -> dict[str, Any]:
    return _said(record) if isinstance(record, _Said) else _overheard(record)


def _said(record: _Said) -> dict[str, Any]:
    """The fields first, what Cloud Logging reads last: no field can stand in for one of those."""
    entry = {name: _as_json(value) for name, value in record.fields.items()}
    entry["version"] = record.identity.version
    entry["instance"] = record.identity.instance
    if isinstance(request := entry.get("httpRequest"), dict) and "requestUrl" in request:
        request["requestUrl"] = str(request["requestUrl"]).partition("?")[0].partition("#")[0]
    entry["severity"] = record.severity
    entry["time"] = _rfc3339(record.when)
    entry["message"] = cut(record.getMessage())
    if record.trace is not None:
        entry[_GOOGLE + "trace"] = f"projects/{record.identity.project}/traces/{record.trace.trace_id}"
        entry[_GOOGLE + "spanId"] = record.trace.span_id
        entry[_GOOGLE + "trace_sampled"] = record.trace.sampled
    if record.event not in _CLAIMS and "task_id" in entry:
        entry[_GOOGLE + "operation"] = _operation(record.event, str(entry["task_id"]))
    entry[_GOOGLE + "labels"] = _labels(record.event, entry)
    if insert_id := record.insert_id or _insert_id(record.event, entry):
        entry[_GOOGLE + "insertId"] = insert_id
    return entry


def _insert_id(event: str, entry: Mapping[str, Any]) -> str | None:
    """The same for whoever says the same thing again, after a crash between doing and knowing it was done."""
    if event not in _REPEATABLE or "task_id" not in entry:
        return None
    parts = [event, entry["task_id"], f"r{entry.get('round', 1)}"]
    return "-".join([*parts, f"a{entry.get('attempt')}"] if event == "attempt.finished" else parts)


def _operation(event: str, task_id: str) -> dict[str, Any]:
    operation: dict[str, Any] = {"id": task_id, "producer": PRODUCER}
    if event == "task.enqueued":
        operation["first"] = True
    if event == "task.finished":
        operation["last"] = True
    return operation


def _labels(event: str, entry: Mapping[str, Any]) -> dict[str, str]:
    names = () if event in _CLAIMS else _LABELLED
    return {"event": event} | {name: str(entry[name]) for name in names if entry.get(name) is not None}


def _overheard(record: logging.LogRecord) -> dict[str, Any]:
    """A library's line: whatever it carries beside its text stays out."""
    entry = {
        "severity": _severity_of(record.levelno),
        "time": _rfc3339(record.created),
        "message": cut(_message(record)),
        "logger": cut(record.name),
    }
    if trouble := _stack_trace(record):
        entry["stack_trace"] = cut(trouble)
    return entry


def _bare(record: logging.LogRecord) -> dict[str, Any]:
    return {
        "severity": _severity_of(record.levelno),
        "time": _rfc3339(record.created),
        "message": f"a record could not be written: {getattr(record, 'event', record.msg)!r:.1000}",
        "logger": record.name,
    }


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001  (arguments that do not fit the text are a library's mistake, its text still tells)
        return _text(record.msg)


def _stack_trace(record: logging.LogRecord) -> str:
    parts = [record.exc_text or "", record.stack_info or ""]
    if record.exc_info and record.exc_info[0] is not None:
        parts[0] = logging.Formatter().formatException(record.exc_info)
    return "\n".join(part for part in parts if part)


def _severity_of(level: int) -> str:
    reached = [name for name, least in _LEVELS.items() if level >= least]
    return reached[-1] if reached else "DEFAULT"


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _as_json(value: object) -> Any:
    try:
        return _plain(value)
    except Exception:  # noqa: BLE001  (a value that contains itself)
        return f"<{type(value).__name__}>"


def _plain(value: object) -> Any:
    """Nothing but what JSON has: other values become their text, NaN and infinities too."""
    match value:
        case None | bool():
            return value
        case str():
            return cut(value)
        case int():
            return int(value) if value.bit_length() < 64 else _text(value)
        case float():
            return float(value) if isfinite(value) else str(value)
        case Mapping():
            return {cut(_text(key)): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return cut(_text(value))


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001  (an object that cannot say what it is, or a number of too many digits)
        return f"<{type(value).__name__}>"


def cut(text: str) -> str:
    """At most 64 KiB of UTF-8, and nothing that UTF-8 does not have."""
    if text.isascii() and len(text) <= LONGEST_TEXT:
        return text
    encoded = text.encode(errors="replace")
    if len(encoded) <= LONGEST_TEXT:
        return encoded.decode()
    return encoded[: LONGEST_TEXT - len(_CUT)].decode(errors="ignore") + _CUT
