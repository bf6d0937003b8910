"""What a timeline shows beside attempts and waits: refusals, interruptions, the log of the queue, what it lacks."""

from __future__ import annotations

from typing import Any

import pytest

from support.lives import BEGINNING, BUSY, OK, TASK_ID, at, attempt, document, record, records
from support.log_service import queue_entry
from traced_relay.logs import cloud_entries, queue_log
from traced_relay.timeline.build import build

QUEUE = "projects/p/locations/l/queues/relay/tasks"
LOST: dict[str, Any] = {"verdict": "retry", "reason": "worker_lost", "blame": "platform"}


def queue_said(name: str, seconds: float, kind: str, **said: Any) -> dict[str, Any]:
    return cloud_entries.as_record(queue_entry(f"{QUEUE}/{name}", BEGINNING + seconds, kind, **said))


def beside(life: dict[str, Any], known: list[dict[str, Any]]) -> list[tuple[str, float, float, str]]:
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
    ("said", "told"),
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
def test_what_happened_in_between_is_a_moment(said: dict[str, Any], told: tuple[str, str]) -> None:
    assert beside(LIFE, [*records(LIFE), said]) == [(told[0], 1, 1, told[1])]


def test_what_happened_to_other_tasks_is_left_out() -> None:
    others = [
        {"event": "dispatch.rejected", "time": at(1), "task_name": f"{QUEUE}/{'0' * 32}-1", "reason": "no_token"},
        record("dispatch.deferred", at(1), task_id="0" * 32),
        queue_said(f"{'0' * 32}-1", 1, "attemptDispatchLog"),
        queue_said(f"{'0' * 32}-1", 1, "taskCreationLog"),
    ]
    assert beside(LIFE, [*records(LIFE), *others]) == []


def test_the_queues_deliveries_go_from_dispatch_to_answer() -> None:
    log = [
        queue_said(f"{TASK_ID}-1", 0.5, "taskCreationLog", status="OK"),
        queue_said(f"{TASK_ID}-1", 0.9, "attemptDispatchLog"),
        queue_said(f"{TASK_ID}-1", 2.1, "attemptResponseLog", status="UNAVAILABLE", attemptDuration="1.2s"),
        queue_said(f"{TASK_ID}-2", 4.1, "attemptResponseLog", status="OK", attemptDuration="1.3s"),
        queue_said(f"{TASK_ID}-2", 5, "taskDeletionLog"),
    ]
    assert build(LIFE, [*NAMED, *log]).missing == ()
    assert beside(LIFE, log) == [
        ("task 1", 0.5, 0.5, "created in the queue"),
        ("dispatch 1", 0.9, 2.1, "queue got UNAVAILABLE"),
        ("dispatch 2", 2.8, 4.1, "queue got OK"),
        ("task 2", 5, 5, "deletion in the queue"),
    ]


def test_a_delivery_that_no_record_tells_of_is_missed_and_an_attempt_that_the_queue_does_not_know() -> None:
    log = [
        queue_said(f"{TASK_ID}-1", 0.9, "attemptDispatchLog"),
        queue_said(f"{TASK_ID}-1", 1.1, "attemptDispatchLog"),
        queue_said(f"{TASK_ID}-3", 5, "attemptDispatchLog"),
    ]
    assert [bar[0] for bar in beside(LIFE, log)] == ["dispatch 1", "dispatch 1", "dispatch 3"]
    assert build(LIFE, [*NAMED, *log]).missing == (
        "dispatch 3: the queue handed it out, and no record says what became of it",
        "attempt 2: its dispatch is not in the queue's log",
    )


def test_an_attempt_says_that_its_trace_was_rewritten_and_when_a_lost_worker_was_heard_last() -> None:
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


def test_spans_dropped_while_the_task_lived_are_told() -> None:
    dropped = [
        {"event": "telemetry.dropped", "time": at(seconds), "dropped_spans": 7, "instance": "i"}
        for seconds in (-1, 3, 300)
    ]
    (line,) = build(LIFE, [*records(LIFE), *dropped]).missing
    assert line == "7 spans, perhaps its own: dropped by i until 14:13:23"


def test_an_entry_of_the_queue_is_a_record_with_words() -> None:
    said = queue_said(f"{TASK_ID}-1", 2.1, "attemptResponseLog", status="UNAVAILABLE", attemptDuration="1.2s")
    assert said["message"] == f"task {TASK_ID}-1: answered, UNAVAILABLE after 1.2s"
    assert (said["logger"], said["severity"], said["time"]) == (queue_log.LOGGER, "ERROR", at(2.1))
    assert not queue_log.is_queue_record({"task": f"{QUEUE}/x", "message": "m"})
    assert not queue_log.is_queue_record({"task": "x", "attemptDispatchLog": {}})
