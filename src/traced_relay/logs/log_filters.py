"""
What to ask Cloud Logging for, in its query language. Pure.

Narrowed as far as that goes by what it keeps an index of: `operation.id`, `labels`, `logName`, `severity`, `timestamp`.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from traced_relay.logs.queue_log import LOG_ID
from traced_relay.logs.record import EVENTS, PRODUCER, rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def of_task(project: str, ids: Sequence[str], names: Iterable[str], *, start: float, end: float) -> str:
    """
    All that tells of a task: *ids* are its own and its callbacks', *names* those it has in the queue, in short.

    The relay's records, the deliveries that it turned away, the spans that were dropped meanwhile, and the log of the
    queue, which knows the tasks' names alone.
    """
    named = _one_of([f"/tasks/{task_id}-" for task_id in ids] + [f"/tasks/{name}" for name in names])
    said = [
        f'(operation.producer="{PRODUCER}" AND operation.id={_one_of(ids)})',
        f'(labels.event=("dispatch.rejected" OR "dispatch.deferred") AND jsonPayload.task_name:{named})',
        'labels.event="telemetry.dropped"',
        f'(logName="projects/{project}/logs/{LOG_ID}" AND jsonPayload.task:{named})',
    ]
    return f"{_since(start)} AND timestamp<={_text(rfc3339(end))} AND ({' OR '.join(said)})"


def of_service(
    *,
    start: float,
    events: Sequence[str] = (),
    severity: str | None = None,
    queue: str | None = None,
    task: str | None = None,
) -> str:
    """The relay's records from *start* on, of *events* (`task.*` means several), this severe, of that queue or task."""
    wanted = [event for event in EVENTS if not events or any(fnmatchcase(event, pattern) for pattern in events)]
    parts = [_since(start), f"labels.event={_one_of(wanted or events)}"]
    if severity is not None:
        parts.append(f"severity>={severity.upper()}")
    if queue is not None:
        parts.append(f"jsonPayload.queue={_text(queue)}")
    if task is not None:
        parts.append(f"(labels.task_id:{_text(task)} OR jsonPayload.callback_of:{_text(task)})")
    return " AND ".join(parts)


def _since(start: float) -> str:
    return f"timestamp>={_text(rfc3339(start))}"


def _one_of(values: Sequence[str]) -> str:
    return f"({' OR '.join(map(_text, values))})" if len(values) > 1 else _text(values[0])


def _text(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
