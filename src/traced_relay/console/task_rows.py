"""The rows of the task list. Pure; static/tasks.js computes durations and ages in the same form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from traced_relay.client import task_text
from traced_relay.formats.durations import parse_time, readable

if TYPE_CHECKING:
    from collections.abc import Mapping

    Document = Mapping[str, Any]


def row(document: Document) -> dict[str, Any]:
    """The fields that the list shows; times are seconds since the epoch."""
    return {
        "id": str(document["task_id"]),
        "state": state_of(document),
        "queue": str(document["queue"]),
        "attempt": int(document["attempt"]),
        "retries": int(document["retry_count"]),
        "method": str(document["method"]),
        "url": str(document["url"]),
        "labels": " ".join(f"{name}={value}" for name, value in document["labels"].items()),
        "reason": str(document["reason"] or ""),
        "created": parse_time(document["created_at"]),
        "due": parse_time(document["schedule_time"]),
        "ended": document["finished_at"] is not None,
        "total": task_text.duration(document),
    }


def state_of(document: Document) -> str:
    """At most 40 characters, since another server may send any text."""
    return str(document["state"])[:40]


def duration(row: Mapping[str, Any], now: float) -> str:
    """Time from when the task was due to its end or until now; before that, the time until it is due."""
    if row["ended"]:
        return "not due" if row["total"] is None else readable(row["total"])
    if row["due"] > now and row["attempt"] == 0:
        return f"in {_whole_seconds(row['due'] - now)}"
    return f"{_whole_seconds(now - max(row['created'], row['due']))} …"


def age(row: Mapping[str, Any], now: float) -> str:
    return _whole_seconds(now - row["created"])


def _whole_seconds(seconds: float) -> str:
    """For durations that change on the page: no unit below seconds."""
    return f"{max(0, int(seconds))} s" if seconds < 60 else readable(seconds)
