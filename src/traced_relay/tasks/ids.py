"""Identifiers derived from what a task is, so that whoever derives one again gets the same."""

from __future__ import annotations

import hashlib


def callback_id(task_id: str, round_: int) -> str:
    """The `webhook-id` of the end of a task's round: the same for whoever works it out."""
    return hashlib.sha256(f"callback\0{task_id}\0{round_}".encode()).hexdigest()[:32]


def derived_id(caller: str, key: str, route: str = "relay") -> str:
    """The id of the task that *caller* means by an Idempotency-Key."""
    return hashlib.sha256(f"{route}\0{caller}\0{key}".encode()).hexdigest()[:32]


def adopted_task_id(task_name: str) -> str:
    """The id of a bare task's row: always the same for the same full name."""
    return hashlib.sha256(b"adopted\0" + task_name.encode()).hexdigest()[:32]
