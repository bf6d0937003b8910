"""Markers of a timeline beside the attempts: refusals, interruptions and the log of the queue. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from traced_relay.formats.durations import parse_time
from traced_relay.timeline.bars import Bar, key_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from traced_relay.logs.queue_log import Delivery, Moment
    from traced_relay.timeline.bars import Kind

    Document = Mapping[str, Any]
    Records = Iterable[Mapping[str, Any]]

_LABELS = {
    "dispatch.deferred": "deferred",
    "dispatch.rejected": "rejected",
    "attempt.interrupted": "interrupted",
    "downstream.denied": "denied",
    "task.cancelled": "cancelled",
}
_DISPATCH_EVENTS = {"attempt.started", "attempt.finished", "dispatch.deferred", "dispatch.rejected"}


def is_related(record: Mapping[str, Any], document: Document) -> bool:
    """Whether a record is of the task, or of a dispatch that named the task and was refused."""
    task_id = document["task_id"]
    if "task_id" in record:
        return bool(record["task_id"] == task_id)
    return record.get("event") in _LABELS and _is_task_of(_short_name(record), document)


def of_relay(records: Records) -> Iterator[Bar]:
    for record in records:
        label = _LABELS.get(str(record.get("event")))
        if label is not None:
            at = parse_time(record["time"])
            kind: Kind = "deferred" if label == "deferred" else "moment"
            yield Bar(kind, label, at, at, note=_note(record), key=key_of(record))


def of_queue(dispatches: Iterable[Delivery], moments: Iterable[Moment], document: Document) -> Iterator[Bar]:
    """A bar for each dispatch in the queue's log, and a marker for each other entry."""
    for dispatch in dispatches:
        if _is_task_of(dispatch.task, document):
            note = "no response in the queue's log" if dispatch.status is None else f"queue got {dispatch.status}"
            yield Bar("queue", f"dispatch {_number(dispatch.task)}", dispatch.start, dispatch.end, note=note)
    for moment in moments:
        if _is_task_of(moment.task, document):
            note = f"{moment.what} in the queue"
            yield Bar("moment", f"task {_number(moment.task)}", moment.at, moment.at, note=note)


def unmatched_dispatches(dispatches: Sequence[Delivery], related: Records, document: Document) -> Iterator[str]:
    """Dispatches that are only in the queue's log, and attempts whose dispatch is not in it; none without a log."""
    if not dispatches:
        return
    recorded = {_short_name(record) for record in related if record.get("event") in _DISPATCH_EVENTS}
    for dispatch in dispatches:
        if _is_task_of(dispatch.task, document) and dispatch.task not in recorded:
            yield f"dispatch {_number(dispatch.task)}: in the queue's log, not in the records"
    logged = {dispatch.task for dispatch in dispatches}
    for attempt in document["attempts"]:
        if attempt["task_name"].rpartition("/")[2] not in logged:
            yield f"attempt {attempt['attempt']}: its dispatch is not in the queue's log"


def _note(record: Mapping[str, Any]) -> str:
    match record:
        case {"event": "attempt.interrupted"}:
            sent = "the request had been sent" if record.get("request_sent") else "before the request was sent"
            return f"attempt {record.get('attempt')}, {sent}"
        case {"event": "task.cancelled", "actor": actor}:
            return f"by {actor}"
    return str(record.get("reason", ""))


def _is_task_of(task: str, document: Document) -> bool:
    known = {attempt["task_name"].rpartition("/")[2] for attempt in document["attempts"]}
    return task in known or task.rpartition("-")[0] == document["task_id"]


def _short_name(record: Mapping[str, Any]) -> str:
    return str(record.get("task_name", "")).rpartition("/")[2]


def _number(task: str) -> str:
    """The attempt that a task is for; a task that the relay did not create is for attempt 1."""
    number = task.rpartition("-")[2]
    return number if number.isdigit() and "-" in task else "1"
