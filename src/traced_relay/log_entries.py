"""Cloud Logging's entries as the records that were printed, and what Cloud Tasks writes there as records too. Pure."""

from __future__ import annotations

import json
from math import isfinite
from typing import TYPE_CHECKING, Any

from traced_relay import queue_log

if TYPE_CHECKING:
    from collections.abc import Mapping

_GOOGLE = "logging.googleapis.com/"
_KEYS = {
    "trace": "trace",
    "spanId": "spanId",
    "traceSampled": "trace_sampled",
    "operation": "operation",
    "labels": "labels",
    "insertId": "insertId",
}


def as_record(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The record that an *entry*, as the API and `gcloud logging read --format json` have it, was made of."""
    said = entry.get("jsonPayload") or {"message": entry.get("textPayload", "")}
    payload = said if isinstance(said, dict) else {"message": json.dumps(said)}
    record = {"message": "", **payload, "severity": entry.get("severity", "DEFAULT"), "time": time_of(entry)}
    if queue_log.is_from(payload):
        record |= {"logger": queue_log.LOGGER, "message": queue_log.summary(payload)}
    if "httpRequest" in entry:
        record["httpRequest"] = entry["httpRequest"]
    return record | {_GOOGLE + key: entry[field] for field, key in _KEYS.items() if field in entry}


def time_of(entry: Mapping[str, Any]) -> str:
    """When it was written, or else when it came; empty where nobody knows."""
    return str(entry.get("timestamp") or entry.get("receiveTimestamp") or "")


def record_of(text: str) -> dict[str, Any]:
    """The record that a line is, as it was printed or as an entry; an empty one if it is none."""
    try:
        document = _loads(text)
    except (ValueError, RecursionError):
        return {}
    return _read(document)


def records_in(text: str) -> list[dict[str, Any]]:
    """All records of a file: one a line, or a list of entries as gcloud prints it."""
    if text.lstrip()[:1] == "[":
        try:
            read = [_read(document) for document in _loads(text)]
        except (ValueError, RecursionError):
            read = []
        if any(read):
            return [record for record in read if record]
    return [record for line in text.splitlines() if (record := record_of(line))]


def _loads(text: str) -> Any:
    """Numbers that JSON does not have are none: nothing can be drawn or reckoned with them."""
    return json.loads(text, parse_constant=lambda _: None, parse_float=_finite)


def _finite(digits: str) -> float | None:
    return number if isfinite(number := float(digits)) else None


def _read(document: Any) -> dict[str, Any]:
    match document:
        case {"message": _, "severity": _}:
            return dict(document)
        case {"timestamp": str(), "insertId": _} | {"timestamp": str(), "logName": _}:
            return as_record(document)
    return {}
