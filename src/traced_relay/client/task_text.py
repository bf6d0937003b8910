"""A task's document as text for people. Pure; a caller that prints to a terminal escapes it with `printable`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from traced_relay.formats.durations import parse_time, readable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Document = Mapping[str, Any]


def one_line(document: Document) -> str:
    """The line of a list; it starts with the full id, so that the next command can read it from stdin."""
    columns = (
        document["task_id"],
        f"{document['state']:<9}",
        document["created_at"][:19] + "Z",
        f"attempt {document['attempt']:<3}",
        f"{document['reason'] or '':<14}",
        f"{document['method']} {document['url'].partition('?')[0].partition('#')[0]}",
    )
    return "  ".join(columns)


def lines(document: Document) -> Iterator[str]:
    """The state and its reason first, the links last."""
    yield f"task_id   {document['task_id']}"
    yield f"state     {state_text(document)}"
    yield f"call      {document['method']} {document['url']}"
    yield f"queue     {document['queue']}"
    if document["labels"]:
        yield "labels    " + " ".join(f"{name}={value}" for name, value in document["labels"].items())
    yield f"created   {document['created_at']}"
    if document["next_attempt_at"]:
        yield f"next      {document['next_attempt_at']}"
    if document["callback"]["state"] != "none":
        yield f"callback  {document['callback']['state']}, attempts: {document['callback']['attempt_count']}"
    yield f"trace_id  {document['trace_id']}"
    yield f"look at   {document['links']['trace']}"


def state_text(document: Document) -> str:
    """For example `failed (http_503, downstream), 3 attempts in 1.2 s`."""
    why = f" ({document['reason']}, {document['blame']})" if document["reason"] else ""
    return f"{document['state']}{why}, {attempts_text(document['attempt'], document['round'], duration(document))}"


def attempts_text(attempts: int, number_of_round: int, seconds: float | None) -> str:
    """For example `3 attempts in 1.2 s`, and after a redrive `5 attempts, round 2 in 300 ms`."""
    counted = f"{attempts} attempt{'' if attempts == 1 else 's'}"
    if number_of_round > 1:
        counted += f", round {number_of_round}"
    return counted if seconds is None else f"{counted} in {readable(seconds)}"


def duration(document: Document) -> float | None:
    """Seconds that the latest round took; None before its end, or if it ended before it was due."""
    total_ms, finished_at = document["total_ms"], document["finished_at"]
    if total_ms is None or finished_at is None:
        return None
    was_due = document["attempt"] > 0 or parse_time(finished_at) >= due_at(document)
    return float(total_ms) / 1000 if was_due else None


def elapsed(document: Document, now: float) -> float | None:
    """Seconds since the latest round was due; None before."""
    passed = now - due_at(document)
    return passed if passed >= 0 else None


def due_at(document: Document) -> float:
    return max(parse_time(document["created_at"]), parse_time(document["schedule_time"]))


def progress(document: Document, now: float) -> str:
    """For example `waiting, attempt 2, 12.3 s, next in 3.5 s`; without seconds before the task is due."""
    seconds = elapsed(document, now)
    since_due = "" if seconds is None else f", {readable(seconds)}"
    next_at = document["next_attempt_at"]
    left = parse_time(next_at) - now if next_at else 0.0
    following = f", next in {readable(left)}" if left > 0 else ""
    return f"{document['state']}, attempt {document['attempt']}{since_due}{following}"
