"""The states of a task; ENDED are terminal."""

from __future__ import annotations

from typing import Literal

State = Literal["queued", "running", "waiting", "succeeded", "failed", "cancelled"]
STATES: tuple[State, ...] = ("queued", "running", "waiting", "succeeded", "failed", "cancelled")
ENDED: frozenset[State] = frozenset({"succeeded", "failed", "cancelled"})
