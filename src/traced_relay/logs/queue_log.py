"""
Reads Cloud Tasks' own log: when a task was created and dispatched, and the status of each response. Pure.

It has no trace ids; only a task's name links it to the relay's records.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from traced_relay.formats.durations import parse_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LOGGER = "cloud tasks"
LOG_ID = "cloudtasks.googleapis.com%2Ftask_operations_log"

_CREATED, _DISPATCHED, _ANSWERED = "taskCreationLog", "attemptDispatchLog", "attemptResponseLog"
_OPERATIONS = {_CREATED: "created", _DISPATCHED: "dispatched", _ANSWERED: "answered"}
_SECONDS = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")


@dataclass(frozen=True)
class Delivery:
    """One dispatch of *task* (its short name) by the queue; *status* is None if no response was logged."""

    task: str
    start: float
    end: float
    status: str | None


@dataclass(frozen=True)
class Moment:
    """Another operation of the queue on *task*."""

    task: str
    at: float
    what: str


def is_queue_record(payload: Mapping[str, Any]) -> bool:
    return "/tasks/" in str(payload.get("task")) and _content_key(payload) != ""


def summary(payload: Mapping[str, Any]) -> str:
    """One line for a queue's record, for example `task 4f0c…-1: answered, UNAVAILABLE after 0.3s`."""
    name = _content_key(payload)
    details = payload[name]
    status = f", {details['status']}" if "status" in details else ""
    lasted = f" after {details['attemptDuration']}" if "attemptDuration" in details else ""
    return f"task {_short_name(payload)}: {_operation(name)}{status}{lasted}"


def read(records: Iterable[Mapping[str, Any]]) -> tuple[list[Delivery], list[Moment]]:
    """Deliveries and other operations; the dispatch or the response of a delivery may be missing."""
    dispatched: dict[str, float] = {}
    deliveries: list[Delivery] = []
    moments: list[Moment] = []
    for record in sorted((r for r in records if is_queue_record(r)), key=lambda record: parse_time(record["time"])):
        task, at, name = _short_name(record), parse_time(record["time"]), _content_key(record)
        if name == _DISPATCHED:
            if task in dispatched:
                deliveries.append(Delivery(task, dispatched[task], dispatched[task], None))
            dispatched[task] = at
        elif name == _ANSWERED:
            answered = record[name]
            start = dispatched.pop(task, at - _duration(answered))
            deliveries.append(Delivery(task, start, at, str(answered.get("status", "")) or "answered"))
        else:
            moments.append(Moment(task, at, _operation(name)))
    deliveries += [Delivery(task, at, at, None) for task, at in dispatched.items()]
    return deliveries, moments


def _content_key(payload: Mapping[str, Any]) -> str:
    """The key of the entry's content, such as `taskCreationLog`; new kinds have one too. Empty for others."""
    return next((name for name in payload if name.endswith("Log") and isinstance(payload[name], dict)), "")


def _operation(name: str) -> str:
    return _OPERATIONS.get(name) or re.sub(r"([A-Z])", r" \1", name.removesuffix("Log")).lower().removeprefix("task ")


def _short_name(payload: Mapping[str, Any]) -> str:
    return str(payload["task"]).rpartition("/")[2]


def _duration(answered: Mapping[str, Any]) -> float:
    found = _SECONDS.fullmatch(str(answered.get("attemptDuration", "")))
    return float(found[1]) if found else 0.0
