"""What a timeline is drawn of: bars, from one moment to another, and their parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["enqueue", "wait", "attempt", "downstream", "deferred", "callback", "queue", "moment"]
Outcome = Literal["", "succeeded", "retry", "gave_up", "cancelled", "running"]


@dataclass(frozen=True)
class Segment:
    """A part of a bar; the parts follow one another from the bar's start."""

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

    @property
    def seconds(self) -> float:
        return max(0.0, self.end - self.start)
