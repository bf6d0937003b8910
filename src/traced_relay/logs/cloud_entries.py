"""Converts Cloud Logging's entries back to records, and builds the filters that find them. Pure."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from math import isfinite
from typing import TYPE_CHECKING, Any

from traced_relay.formats.durations import format_time
from traced_relay.logs import queue_log
from traced_relay.logs.log_input import LogInput
from traced_relay.logs.queue_log import LOG_ID
from traced_relay.logs.record import EVENTS, PRODUCER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

MAX_OBJECT = 8_000_000  # characters; Cloud Logging accepts entries of 256 KB, but an indented list is one object
HOW_TO_READ = "records are JSON, as the relay prints them or as gcloud logging does with --format=json"
YAML_HINT = "entries as YAML, which gcloud prints by itself; add --format=json to its command"

_NAMES = ("DEFAULT", "DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "CRITICAL", "ALERT", "EMERGENCY")
_SEVERITIES = dict(zip(range(0, 900, 100), _NAMES, strict=True))  # by the API's numbers
_GOOGLE = "logging.googleapis.com/"
_YAML = re.compile(
    r"(error_?groups|insert_?id|json_?payload|text_?payload|log_?name|receive_?timestamp):( |$)", re.IGNORECASE
)
_FIELDS = ("trace", "spanId", "traceSampled", "operation", "labels", "insertId")
_RENAMED = {"traceSampled": "trace_sampled"}  # in a record; the others keep their names


def as_record(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The record of an *entry* in the API's JSON, which `gcloud logging read --format=json` prints as well."""
    content = entry.get("jsonPayload") or {"message": entry.get("textPayload", "")}
    payload = content if isinstance(content, dict) else {"message": json.dumps(content)}
    severity = entry.get("severity", "DEFAULT")
    if isinstance(severity, int):
        severity = _SEVERITIES.get(severity, "DEFAULT")
    record = {"message": "", **payload, "severity": severity, "time": time_of(entry)}
    if queue_log.is_queue_record(payload):
        record |= {"logger": queue_log.LOGGER, "message": queue_log.summary(payload)}
    if "httpRequest" in entry:
        record["httpRequest"] = entry["httpRequest"]
    return record | {_GOOGLE + _RENAMED.get(field, field): entry[field] for field in _FIELDS if field in entry}


def time_of(entry: Mapping[str, Any]) -> str:
    """Empty if the entry has neither time."""
    return str(entry.get("timestamp") or entry.get("receiveTimestamp") or "")


def records_of(text: str) -> list[dict[str, Any]]:
    """
    The records in a JSON object; empty if it contains none.

    Accepts a record as the relay prints it, an entry of the API or of gcloud, its payload alone, a response of the
    API with a list of entries, and a line in the JSON of Docker or journald.
    """
    try:
        document = _loads(text)
    except (ValueError, RecursionError):
        return []
    match document:
        case {"entries": [*entries]}:
            return [record for entry in entries for record in _read(entry)]
        case {"log": str(line), "stream": _} | {"MESSAGE": str(line)}:
            return records_of(line) if len(line) < len(text) else []
    return _read(document)


def records_in(chunks: Iterable[str]) -> Iterator[dict[str, Any] | str]:
    """The records of a text, and its other lines as strings."""
    return LogInput(records_of, MAX_OBJECT).pieces(chunks)


def is_gclouds_yaml(line: str) -> bool:
    return _YAML.match(line) is not None


def _loads(text: str) -> Any:
    """NaN and infinities, which JSON does not have, become None."""
    return json.loads(text, parse_constant=lambda _: None, parse_float=_finite)


def _finite(digits: str) -> float | None:
    return number if isfinite(number := float(digits)) else None


def _read(document: Any) -> list[dict[str, Any]]:
    match document:
        case {"message": _, "severity": _}:
            return [dict(document)]
        case {"event": str(event), "message": _} if event in EVENTS:  # a payload without its entry
            return [as_record({"jsonPayload": document})]
        case {"jsonPayload": dict()} | {"textPayload": str()} | {"timestamp": str(), "insertId": _}:
            return [as_record(document)]
        case {"timestamp": str(), "logName": _}:
            return [as_record(document)]
        case {"json_payload": dict()} | {"text_payload": str()} | {"timestamp": str(), "insert_id": _}:
            return [as_record(_in_api_form(document))]
    return []


def _in_api_form(entry: Mapping[str, Any]) -> dict[str, Any]:
    """
    An entry of `gcloud logging tail` in the API's JSON.

    gcloud prints names with underscores, severities as numbers, integers as floats, and unset fields as well.
    """
    named = {_camel(name): value for name, value in entry.items() if value not in ("", None, [])}
    if "trace" not in named:
        named.pop("traceSampled", None)
    for name in ("httpRequest", "operation"):
        if isinstance(named.get(name), dict):
            named[name] = {_camel(key): value for key, value in named[name].items() if value not in ("", "0", 0)}
    if "jsonPayload" in named:
        named["jsonPayload"] = with_whole_numbers(named["jsonPayload"])
    return {name: value for name, value in named.items() if value != {}}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def with_whole_numbers(value: Any) -> Any:
    """Turns whole floats into integers: Google's clients return every number of a payload as a float."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {name: with_whole_numbers(part) for name, part in value.items()}
        case list():
            return [with_whole_numbers(part) for part in value]
    return value


def task_filter(project: str, ids: Sequence[str], names: Iterable[str], *, start: float, end: float) -> str:
    """
    The filter for one task: *ids* are its own and its callbacks', *names* its short names in the queue.

    Finds the relay's records, rejected and deferred dispatches, dropped spans, and the queue's log, which has only the
    tasks' names.
    """
    named = _one_of([f"/tasks/{task_id}-" for task_id in ids] + [f"/tasks/{name}" for name in names])
    sources = [
        f'(operation.producer="{PRODUCER}" AND operation.id={_one_of(ids)})',
        f'(labels.event=("dispatch.rejected" OR "dispatch.deferred") AND jsonPayload.task_name:{named})',
        'labels.event="telemetry.dropped"',
        f'(logName="projects/{project}/logs/{LOG_ID}" AND jsonPayload.task:{named})',
    ]
    return f"{_since(start)} AND timestamp<={_text(format_time(end))} AND ({' OR '.join(sources)})"


def service_filter(
    *,
    start: float,
    events: Sequence[str] = (),
    severity: str | None = None,
    queue: str | None = None,
    task: str | None = None,
) -> str:
    """The filter for the relay's records from *start* on; *events* may have wildcards, *severity* is the minimum."""
    wanted = [event for event in EVENTS if not events or any(fnmatchcase(event, pattern) for pattern in events)]
    parts = [_since(start), f"labels.event={_one_of(wanted or events)}"]
    if severity is not None:
        parts.append(f"severity>={severity.upper()}")
    if queue is not None:
        parts.append(f"jsonPayload.queue={_text(queue)}")
    if task is not None:
        parts.append(f"(labels.task_id:{_text(task)} OR jsonPayload.callback_of:{_text(task)})")
    return " AND ".join(parts)


def _since(start: float) -> str:
    return f"timestamp>={_text(format_time(start))}"


def _one_of(values: Sequence[str]) -> str:
    return f"({' OR '.join(map(_text, values))})" if len(values) > 1 else _text(values[0])


def _text(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
