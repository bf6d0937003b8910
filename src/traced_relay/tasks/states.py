"""The states of a task; ENDED are terminal."""

from __future__ import annotations

from typing import Literal, get_args

State = Literal["queued", "running", "waiting", "succeeded", "failed", "cancelled"]
STATES: tuple[State, ...] = get_args(State)
ENDED: frozenset[State] = frozenset({"succeeded", "failed", "cancelled"})
