"""Identifiers derived from a task's properties: deriving one again gives the same."""

from __future__ import annotations

import hashlib


def attempt_name(task_id: str, number: int) -> str:
    """Short name of the task of attempt *number*, which no other attempt has."""
    return f"{task_id}-{number}"


def callback_id(task_id: str, round_: int) -> str:
    """The `webhook-id` of the callback for the end of a task's round."""
    return hashlib.sha256(f"callback\0{task_id}\0{round_}".encode()).hexdigest()[:32]


def derived_id(caller: str, key: str) -> str:
    """The id of the task that *caller* enqueues under an Idempotency-Key."""
    return hashlib.sha256(f"relay\0{caller}\0{key}".encode()).hexdigest()[:32]


def adopted_task_id(task_name: str) -> str:
    """The id of a bare task's row, from the task's full name."""
    return hashlib.sha256(b"adopted\0" + task_name.encode()).hexdigest()[:32]
