"""
A line of stdout as the log entry that Cloud Logging makes of it.

Its special keys become fields of the entry and leave the payload; one that is not known fails.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from support.log_query import SEVERITIES

_GOOGLE = "logging.googleapis.com/"
_LIFTED = {
    "trace": "trace",
    "spanId": "spanId",
    "trace_sampled": "traceSampled",
    "operation": "operation",
    "labels": "labels",
    "insertId": "insertId",
    "sourceLocation": "sourceLocation",
}


def lift(line: str, resource: str = "gae_app") -> dict[str, Any]:
    """The entry of one *line* that a service of the *resource* type printed."""
    entry: dict[str, Any] = {"resource": {"type": resource, "labels": {}}, "severity": "DEFAULT"}
    try:
        payload = json.loads(line)
    except ValueError:
        payload = None
    if not isinstance(payload, dict):
        return entry | {"textPayload": line}
    severity = payload.pop("severity", "DEFAULT")
    entry["severity"] = severity if severity in SEVERITIES else "DEFAULT"
    for name, field in (("time", "timestamp"), ("httpRequest", "httpRequest")):
        if name in payload:
            entry[field] = payload.pop(name)
    for name in [name for name in payload if name.startswith(_GOOGLE)]:
        entry[_LIFTED[name.removeprefix(_GOOGLE)]] = payload.pop(name)
    if payload.keys() == {"message"}:
        return entry | {"textPayload": payload["message"]}
    return entry | {"jsonPayload": payload}


def seconds_of(entry: dict[str, Any]) -> float:
    return datetime.fromisoformat(entry["timestamp"]).timestamp()
