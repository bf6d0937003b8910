"""Lines of libraries, also before the log is configured, for example warnings of imports; loads few modules."""

from __future__ import annotations

import json
import logging
from typing import Any

from traced_relay.formats.durations import format_time
from traced_relay.logs.record import as_text, truncate

_SEVERITIES = {
    logging.DEBUG: "DEBUG",
    logging.INFO: "INFO",
    25: "NOTICE",
    logging.WARNING: "WARNING",
    logging.ERROR: "ERROR",
    logging.CRITICAL: "CRITICAL",
}


class EarlyLines(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes each line as one JSON object to stderr, until `writer.configure` takes its place."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(library_entry(record))


def library_entry(record: logging.LogRecord) -> dict[str, Any]:
    """Only the text, level, name and traceback; the record's other attributes are left out."""
    entry = {
        "severity": _severity_of(record.levelno),
        "time": format_time(record.created),
        "message": truncate(_message(record)),
        "logger": truncate(record.name),
    }
    if stack_trace := _stack_trace(record):
        entry["stack_trace"] = truncate(stack_trace)
    return entry


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001  (the arguments do not fit the text; the text alone is logged)
        return as_text(record.msg)


def _stack_trace(record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info and record.exc_info[0] is not None:
        parts.append(logging.Formatter().formatException(record.exc_info))
    return "\n".join([*parts, record.stack_info] if record.stack_info else parts)


def _severity_of(level: int) -> str:
    reached = [name for minimum, name in _SEVERITIES.items() if level >= minimum]
    return reached[-1] if reached else "DEFAULT"
