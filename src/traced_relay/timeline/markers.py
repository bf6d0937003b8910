"""What happened to a task beside its attempts: what turned it away or cut it, and what the queue did with it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from traced_relay.formats.durations import parse_time
from traced_relay.logs import queue_log
from traced_relay.timeline.bars import Bar, key_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from traced_relay.timeline.bars import Kind

    Document = Mapping[str, Any]
    Records = Iterable[Mapping[str, Any]]

_MOMENTS = {
    "dispatch.deferred": "deferred",
    "dispatch.rejected": "rejected",
    "attempt.interrupted": "interrupted",
    "downstream.denied": "denied",
    "task.cancelled": "cancelled",
}
_TAKEN = {"attempt.started", "attempt.finished", "dispatch.deferred", "dispatch.rejected"}


def tells_of(record: Mapping[str, Any], document: Document) -> bool:
    """Whether a record is about the task, or a delivery that claimed to be of it."""
    task_id = document["task_id"]
    if "task_id" in record:
        return bool(record["task_id"] == task_id)
    return record.get("event") in _MOMENTS and _is_named(_short(record), document)


def of_relay(said: Records) -> Iterator[Bar]:
    for record in said:
        label = _MOMENTS.get(str(record.get("event")))
        if label is not None:
            at = parse_time(record["time"])
            kind: Kind = "deferred" if label == "deferred" else "moment"
            yield Bar(kind, label, at, at, note=_note(record), key=key_of(record))


def of_queue(records: Records, document: Document) -> Iterator[Bar]:
    """One line for each time that the queue handed a task of the call out, and a mark for what else it did."""
    deliveries, moments = queue_log.read(records)
    for one in deliveries:
        if _is_named(one.task, document):
            status = "no answer in the queue's log" if one.status is None else f"queue got {one.status}"
            yield Bar("queue", f"dispatch {_number(one.task)}", one.start, one.end, note=status)
    for moment in moments:
        if _is_named(moment.task, document):
            yield Bar(
                "moment", f"task {_number(moment.task)}", moment.at, moment.at, note=f"{moment.what} in the queue"
            )


def untold(records: Records, said: Records, document: Document) -> Iterator[str]:
    """Deliveries of which no record says what became of them: nobody took them, or the records are lost."""
    deliveries, _ = queue_log.read(records)
    if not deliveries:
        return
    taken = {_short(record) for record in said if record.get("event") in _TAKEN}
    handed_out = {one.task for one in deliveries}
    for one in deliveries:
        if _is_named(one.task, document) and one.task not in taken:
            yield f"dispatch {_number(one.task)}: the queue handed it out, and no record says what became of it"
    for attempt in document["attempts"]:
        if attempt["task_name"].rpartition("/")[2] not in handed_out:
            yield f"attempt {attempt['attempt']}: its dispatch is not in the queue's log"


def _note(record: Mapping[str, Any]) -> str:
    match record:
        case {"event": "attempt.interrupted"}:
            sent = "the request had been sent" if record.get("request_sent") else "before the request was sent"
            return f"attempt {record.get('attempt')}, {sent}"
        case {"event": "task.cancelled", "actor": actor}:
            return f"by {actor}"
    return str(record.get("reason", ""))


def _is_named(task: str, document: Document) -> bool:
    known = {attempt["task_name"].rpartition("/")[2] for attempt in document["attempts"]}
    return task in known or task.rpartition("-")[0] == document["task_id"]


def _short(record: Mapping[str, Any]) -> str:
    return str(record.get("task_name", "")).rpartition("/")[2]


def _number(task: str) -> str:
    """Which attempt a task is for; one that was made by hand is the first."""
    number = task.rpartition("-")[2]
    return number if number.isdigit() and "-" in task else "1"
