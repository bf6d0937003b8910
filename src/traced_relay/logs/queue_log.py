"""
What Cloud Tasks' own log says of a task: when it was made, when it was handed out, how that was answered. Pure.

It knows no trace id; a task's name is all that joins it to our records.
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
_WORDS = {_CREATED: "created", _DISPATCHED: "dispatched", _ANSWERED: "answered"}
_SECONDS = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")


@dataclass(frozen=True)
class Delivery:
    """One time that the queue handed a *task* (its short name) out; *status* is None where no answer was logged."""

    task: str
    start: float
    end: float
    status: str | None


@dataclass(frozen=True)
class Moment:
    """Something else that the queue did with a *task*."""

    task: str
    at: float
    what: str


def is_from(payload: Mapping[str, Any]) -> bool:
    return "/tasks/" in str(payload.get("task")) and _part(payload) is not None


def summary(payload: Mapping[str, Any]) -> str:
    """For example `task 4f0c…-1: answered, UNAVAILABLE after 0.3s`."""
    name = _part(payload) or ""
    part = payload.get(name)
    said = part if isinstance(part, dict) else {}
    status = f", {said['status']}" if "status" in said else ""
    lasted = f" after {said['attemptDuration']}" if "attemptDuration" in said else ""
    return f"task {_short(payload)}: {_words(name)}{status}{lasted}"


def read(records: Iterable[Mapping[str, Any]]) -> tuple[list[Delivery], list[Moment]]:
    """Deliveries, each from its dispatch to its answer, and the rest; either half of a delivery may be missing."""
    handed_out: dict[str, float] = {}
    deliveries: list[Delivery] = []
    moments: list[Moment] = []
    for record in sorted((r for r in records if is_from(r)), key=lambda record: parse_time(record["time"])):
        task, at, name = _short(record), parse_time(record["time"]), _part(record) or ""
        if name == _DISPATCHED:
            if task in handed_out:
                deliveries.append(Delivery(task, handed_out[task], handed_out[task], None))
            handed_out[task] = at
        elif name == _ANSWERED:
            start = handed_out.pop(task, None)
            answered = record[name]
            begun = at - _lasted(answered) if start is None else start
            deliveries.append(Delivery(task, begun, at, str(answered.get("status", "")) or "answered"))
        else:
            moments.append(Moment(task, at, _words(name)))
    deliveries += [Delivery(task, at, at, None) for task, at in handed_out.items()]
    return deliveries, moments


def _part(payload: Mapping[str, Any]) -> str | None:
    """Which kind of entry it is; of a kind that nobody described yet at least the name is known."""
    return next((name for name in payload if name.endswith("Log") and isinstance(payload[name], dict)), None)


def _words(name: str) -> str:
    return _WORDS.get(name) or re.sub(r"([A-Z])", r" \1", name.removesuffix("Log")).lower().removeprefix("task ")


def _short(payload: Mapping[str, Any]) -> str:
    return str(payload["task"]).rpartition("/")[2]


def _lasted(answered: Mapping[str, Any]) -> float:
    found = _SECONDS.fullmatch(str(answered.get("attemptDuration", "")))
    return float(found[1]) if found else 0.0
