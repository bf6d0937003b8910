"""Finds records and spans that a task should have but does not. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from traced_relay.formats.durations import parse_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from traced_relay.tracing.span_tree import FinishedSpan

ENDED = {"succeeded", "failed", "cancelled"}
_DROPS_LOGGED_WITHIN = 120.0  # seconds; dropped spans are logged once a minute
_ENQUEUE = "POST /v1/tasks"  # its parent is a span of the caller, which is not exported here


def find_missing(
    document: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]] | None,
    spans: Sequence[FinishedSpan] | None,
    whole_since: str = "",
) -> tuple[str, ...]:
    """
    One line for each; *records* or *spans* are None if their source could not be read.

    Records and spans are complete only since *whole_since*, so those of an older task are not checked.
    """
    found = [*_unrecorded_attempts(document)]
    if records is not None and whole_since and parse_time(document["created_at"]) <= parse_time(whole_since):
        return (*found, "its first records and spans are no longer kept here")
    if records is not None:
        found += [*_missing_task_records(document, records), *_missing_attempt_records(document, records)]
    if spans is not None and not _is_unsampled(records or ()):
        found += _missing_spans(document, spans)
    return tuple(found)


def _missing_task_records(document: Mapping[str, Any], records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    events = {record.get("event") for record in records}
    if "task.enqueued" not in events and not _is_adopted(document):
        yield "no record task.enqueued"
    ended = {record.get("round") for record in records if record.get("event") == "task.finished"}
    if document["state"] in ENDED and document["round"] not in ended:
        yield f"no record task.finished of round {document['round']}"


def _unrecorded_attempts(document: Mapping[str, Any]) -> Iterator[str]:
    oldest = min((attempt["attempt"] for attempt in document["attempts"]), default=1)
    if oldest > 1:
        yield f"attempts 1 to {oldest - 1}: no longer in the ledger"
    for attempt in document["attempts"]:
        number = attempt["attempt"]
        if attempt["ended_at"] is None and (number < document["attempt"] or document["state"] != "running"):
            yield f"attempt {number}: started, end not recorded"


def _missing_attempt_records(document: Mapping[str, Any], records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    started = {record.get("attempt") for record in records if record.get("event") == "attempt.started"}
    finished = {record.get("attempt") for record in records if record.get("event") == "attempt.finished"}
    attempts = {attempt["attempt"]: attempt for attempt in document["attempts"]}
    oldest = min(attempts, default=1)
    for number, attempt in attempts.items():
        if number not in started:
            yield f"attempt {number}: no record attempt.started"
        if number not in finished and attempt["ended_at"] is not None:
            yield f"attempt {number}: no record attempt.finished"
    for number in sorted(number for number in started | finished if isinstance(number, int)):
        if number >= oldest and number not in attempts:
            yield f"attempt {number}: in the records, not in the ledger"


def _missing_spans(document: Mapping[str, Any], spans: Sequence[FinishedSpan]) -> Iterator[str]:
    known = {span.span_id for span in spans}
    adopted = _is_adopted(document)
    if not adopted and not any(span.kind == "PRODUCER" for span in spans):
        yield "no span send"
    for attempt in document["attempts"]:
        if attempt["ended_at"] is not None and attempt["span_id"] not in known:
            yield f"attempt {attempt['attempt']}: no span {attempt['span_id'] or 'process'}"
    for span in spans:
        from_outside = span.name.startswith(_ENQUEUE) or (adopted and span.kind == "SERVER")
        if span.parent_id is not None and span.parent_id not in known and not from_outside:
            yield f"span {span.name}: parent {span.parent_id} is missing"


def _is_unsampled(records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the sampler decided against spans for this trace."""
    return bool(records) and all(record.get("logging.googleapis.com/trace_sampled") is False for record in records)


def _is_adopted(document: Mapping[str, Any]) -> bool:
    """Whether another Cloud Tasks client created the task, so that it has no enqueue."""
    return bool(document["attempts"]) and document["attempts"][0]["task_name"].partition("-")[0] != document["task_id"]


def dropped_spans(records: Iterable[Mapping[str, Any]], document: Mapping[str, Any]) -> Iterator[str]:
    """Spans that a relay dropped during the task's life; spans of the task may be among them."""
    ends = [attempt["ended_at"] for attempt in document["attempts"] if attempt["ended_at"]]
    last_log = max(map(parse_time, [*ends, document["finished_at"] or document["created_at"]])) + _DROPS_LOGGED_WITHIN
    for record in records:
        if record.get("event") != "telemetry.dropped":
            continue
        at = parse_time(record["time"])
        if parse_time(document["created_at"]) <= at and (at <= last_log or document["finished_at"] is None):
            count, instance = record.get("dropped_spans"), record.get("instance")
            yield f"{count} spans dropped by {instance} until {record['time'][11:19]}, possibly of this task"
