"""A task as the list shows it. Pure; what the script fills in later, in static/tasks.js, has the same form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from traced_relay.client.task_text import duration
from traced_relay.formats.durations import parse_time, readable

if TYPE_CHECKING:
    from collections.abc import Mapping

    Document = Mapping[str, Any]


LONGEST_STATE = 40


def row(document: Document) -> dict[str, Any]:
    """The few fields that are shown, times as seconds since the epoch."""
    return {
        "id": str(document["task_id"]),
        "state": str(document["state"])[:LONGEST_STATE],
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
        "total": duration(document),
    }


def lasted(row: Mapping[str, Any], now: float) -> str:
    """How long it took, or takes so far, from when it was due; of one that is not due yet, when it is."""
    if row["ended"]:
        return "not due" if row["total"] is None else readable(row["total"])
    if row["due"] > now and row["attempt"] == 0:
        return f"in {_coarse(row['due'] - now)}"
    return f"{_coarse(now - max(row['created'], row['due']))} …"


def age(row: Mapping[str, Any], now: float) -> str:
    return _coarse(now - row["created"])


def _coarse(seconds: float) -> str:
    """Lengths that change while they are looked at: no finer than seconds."""
    return f"{max(0, int(seconds))} s" if seconds < 60 else readable(seconds)
