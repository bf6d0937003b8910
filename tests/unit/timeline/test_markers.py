"""Markers, queue bars and missing records of a timeline."""

from __future__ import annotations

from typing import Any

import pytest

from support.lives import BEGINNING, BUSY, OK, TASK_ID, at, attempt, document, record, records
from support.log_service import queue_entry
from traced_relay.logs import cloud_entries, queue_log
from traced_relay.timeline.build import build

QUEUE = "projects/p/locations/l/queues/relay/tasks"
LOST: dict[str, Any] = {"verdict": "retry", "reason": "worker_lost", "blame": "platform"}


def queue_record(name: str, seconds: float, kind: str, **entry: Any) -> dict[str, Any]:
    return cloud_entries.as_record(queue_entry(f"{QUEUE}/{name}", BEGINNING + seconds, kind, **entry))


def extra_bars(life: dict[str, Any], known: list[dict[str, Any]]) -> list[tuple[str, float, float, str]]:
    built = build(life, known)
    kinds = ("queue", "moment", "deferred")
    return [
        (bar.label, round(bar.start - BEGINNING, 3), round(bar.end - BEGINNING, 3), bar.note)
        for bar in built.bars
        if bar.kind in kinds
    ]


LIFE = document("succeeded", attempt(1, 1, 2, BUSY), attempt(2, 3, 4, OK))
NAMED = [one | {"task_name": f"{QUEUE}/{TASK_ID}-{one.get('attempt')}"} for one in records(LIFE)]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (record("dispatch.deferred", at(1), reason="capacity"), ("deferred", "capacity")),
        (
            record("attempt.interrupted", at(1), attempt=1, request_sent=True),
            ("interrupted", "attempt 1, the request had been sent"),
        ),
        (record("attempt.interrupted", at(1), attempt=1), ("interrupted", "attempt 1, before the request was sent")),
        (record("task.cancelled", at(1), actor="a@b"), ("cancelled", "by a@b")),
        (record("downstream.denied", at(1), reason="denied"), ("denied", "denied")),
        (
            {"event": "dispatch.rejected", "time": at(1), "reason": "no_token", "task_name": f"{QUEUE}/{TASK_ID}-2"},
            ("rejected", "no_token"),
        ),
    ],
)
def test_events_between_attempts_are_markers(entry: dict[str, Any], expected: tuple[str, str]) -> None:
    assert extra_bars(LIFE, [*records(LIFE), entry]) == [(expected[0], 1, 1, expected[1])]


def test_events_of_other_tasks_are_left_out() -> None:
    others = [
        {"event": "dispatch.rejected", "time": at(1), "task_name": f"{QUEUE}/{'0' * 32}-1", "reason": "no_token"},
        record("dispatch.deferred", at(1), task_id="0" * 32),
        queue_record(f"{'0' * 32}-1", 1, "attemptDispatchLog"),
        queue_record(f"{'0' * 32}-1", 1, "taskCreationLog"),
    ]
    assert extra_bars(LIFE, [*records(LIFE), *others]) == []


def test_queue_bar_spans_dispatch_to_response() -> None:
    log = [
        queue_record(f"{TASK_ID}-1", 0.5, "taskCreationLog", status="OK"),
        queue_record(f"{TASK_ID}-1", 0.9, "attemptDispatchLog"),
        queue_record(f"{TASK_ID}-1", 2.1, "attemptResponseLog", status="UNAVAILABLE", attemptDuration="1.2s"),
        queue_record(f"{TASK_ID}-2", 4.1, "attemptResponseLog", status="OK", attemptDuration="1.3s"),
        queue_record(f"{TASK_ID}-2", 5, "taskDeletionLog"),
    ]
    assert build(LIFE, [*NAMED, *log]).missing == ()
    assert extra_bars(LIFE, log) == [
        ("task 1", 0.5, 0.5, "created in the queue"),
        ("dispatch 1", 0.9, 2.1, "queue got UNAVAILABLE"),
        ("dispatch 2", 2.8, 4.1, "queue got OK"),
        ("task 2", 5, 5, "deletion in the queue"),
    ]


def test_dispatches_are_matched_with_records_and_attempts() -> None:
    log = [
        queue_record(f"{TASK_ID}-1", 0.9, "attemptDispatchLog"),
        queue_record(f"{TASK_ID}-1", 1.1, "attemptDispatchLog"),
        queue_record(f"{TASK_ID}-3", 5, "attemptDispatchLog"),
    ]
    assert [bar[0] for bar in extra_bars(LIFE, log)] == ["dispatch 1", "dispatch 1", "dispatch 3"]
    assert build(LIFE, [*NAMED, *log]).missing == (
        "dispatch 3: in the queue's log, not in the records",
        "attempt 2: its dispatch is not in the queue's log",
    )


def test_note_has_last_heartbeat_and_rewritten_trace() -> None:
    life = document("succeeded", attempt(1, 1, 99, LOST), attempt(2, 100, 101, OK))
    known = [
        *records(life),
        record("attempt.heartbeat", at(61), attempt=1, elapsed_ms=60_000),
        record("attempt.started", at(100), attempt=2, trace_rewritten=True),
    ]
    notes = [bar.note for bar in build(life, known).bars if bar.kind == "attempt"]
    assert notes == [
        "worker_lost retry, platform, last heartbeat at 1m 00s",
        "200 succeeded, traceparent rewritten",
    ]


def test_spans_dropped_during_the_task_are_reported() -> None:
    dropped = [
        {"event": "telemetry.dropped", "time": at(seconds), "dropped_spans": 7, "instance": "i"}
        for seconds in (-1, 3, 300)
    ]
    (line,) = build(LIFE, [*records(LIFE), *dropped]).missing
    assert line == "7 spans dropped by i until 14:13:23, possibly of this task"


def test_queue_log_entry_gets_a_message() -> None:
    entry = queue_record(f"{TASK_ID}-1", 2.1, "attemptResponseLog", status="UNAVAILABLE", attemptDuration="1.2s")
    assert entry["message"] == f"task {TASK_ID}-1: answered, UNAVAILABLE after 1.2s"
    assert (entry["logger"], entry["severity"], entry["time"]) == (queue_log.LOGGER, "ERROR", at(2.1))
    assert not queue_log.is_queue_record({"task": f"{QUEUE}/x", "message": "m"})
    assert not queue_log.is_queue_record({"task": "x", "attemptDispatchLog": {}})
