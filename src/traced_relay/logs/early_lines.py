"""Lines of the log before it is configured, for example warnings of imports; needs the standard library alone."""

from __future__ import annotations

import json
import logging

from traced_relay.logs.record import rfc3339, truncate

_SEVERITIES = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class EarlyLines(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes each line as one JSON object to stderr, until `writer.configure` takes its place."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "severity": record.levelname if record.levelname in _SEVERITIES else "DEFAULT",
            "time": rfc3339(record.created),
            "message": truncate(record.getMessage()),
            "logger": record.name,
        }
        if record.exc_info:
            entry["stack_trace"] = truncate(logging.Formatter().formatException(record.exc_info))
        return json.dumps(entry)
