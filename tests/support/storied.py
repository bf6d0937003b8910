"""A task's records in the order in which things happened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from support.schema import validate

if TYPE_CHECKING:
    from traced_relay.testing import RunningRelay


def story(relay: RunningRelay, task_id: str) -> list[dict[str, Any]]:
    """What was said of a task, each record valid: a queue may be quicker than whoever says that the task is there."""
    records = relay.records.records(task_id)
    for record in records:
        validate(record)
    return sorted(records, key=lambda record: bool(record["event"] != "task.enqueued"))
