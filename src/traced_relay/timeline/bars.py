"""The bars of a timeline and the keys that link records to them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["enqueue", "wait", "attempt", "downstream", "deferred", "callback", "queue", "moment"]
Outcome = Literal["", "succeeded", "retry", "gave_up", "cancelled", "running"]
DELAY_LABELS = {"retry_after": "Retry-After", "backoff": "backoff"}  # by the delay_reason of an attempt


@dataclass(frozen=True)
class Segment:
    """A part of a bar; the first one begins at the bar's start, each other one where the previous one ends."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Bar:
    kind: Kind
    label: str
    start: float
    end: float
    outcome: Outcome = ""
    note: str = ""
    depth: int = 0
    segments: tuple[Segment, ...] = ()
    is_open: bool = False
    key: str = ""  # `key_of` of its records; empty for a wait
    heartbeats: tuple[float, ...] = ()

    @property
    def seconds(self) -> float:
        return max(0.0, self.end - self.start)


def key_of(record: Mapping[str, Any]) -> str:
    """The key of the bar that a record belongs to; empty for a record about the task as a whole."""
    event, attempt = record.get("event"), record.get("attempt")
    if event == "dispatch.deferred":
        return f"deferred {record.get('time')}"
    if attempt is not None:
        return f"attempt {attempt}" if "callback_of" not in record else f"callback {record.get('task_id')} {attempt}"
    return "enqueue" if event == "task.enqueued" and "callback_of" not in record else ""
