from __future__ import annotations

from typing import Any

from support.lives import BEGINNING, FLAKY, at
from traced_relay.client import task_text

REST: dict[str, Any] = {
    "created_at": at(0),
    "next_attempt_at": None,
    "total_ms": 1234,
    "labels": {},
    "callback": {"state": "none", "attempt_count": 0},
    "links": {"trace": "http://localhost:8080/console/tasks/x"},
}


def document(**changes: Any) -> dict[str, Any]:
    return dict(FLAKY) | REST | changes


def test_a_list_line_starts_with_the_id_and_omits_the_query() -> None:
    line = task_text.one_line(document(url="http://x.example/a?secret=1#b"))
    assert line.split()[0] == FLAKY["task_id"]
    assert line.endswith(" POST http://x.example/a")


def test_the_state_has_its_reason_and_attempts() -> None:
    failed = document(state="failed", reason="http_503", blame="downstream", attempt=3)
    assert task_text.state_text(failed) == "failed (http_503, downstream), 3 attempts in 1.23 s"
    queued = document(state="queued", reason=None, attempt=0, total_ms=None)
    assert task_text.state_text(queued) == "queued, 0 attempts"


def test_a_later_round_is_shown() -> None:
    again = document(state="succeeded", round=2, attempt=4, schedule_time=at(2), finished_at=at(3))
    assert task_text.state_text(again) == "succeeded, 4 attempts, round 2 in 1.23 s"


def test_a_task_that_ended_before_it_was_due_has_no_duration() -> None:
    cancelled = document(state="cancelled", attempt=0, schedule_time=at(3600), finished_at=at(60), total_ms=0)
    assert task_text.state_text(cancelled) == "cancelled, 0 attempts"
    assert task_text.duration(cancelled) is None
    assert task_text.duration(cancelled | {"attempt": 1, "total_ms": 2500}) == 2.5


def test_progress_counts_from_the_due_time() -> None:
    delayed = document(state="queued", attempt=0, schedule_time=at(60), next_attempt_at=at(60))
    assert task_text.progress(delayed, BEGINNING + 12) == "queued, attempt 0, next in 48.0 s"
    assert task_text.progress(delayed, BEGINNING + 65) == "queued, attempt 0, 5.00 s"


def test_progress_shows_the_next_attempt_until_it_is_due() -> None:
    waiting = document(state="waiting", attempt=2, next_attempt_at=at(15.5))
    assert task_text.progress(waiting, BEGINNING + 12) == "waiting, attempt 2, 12.0 s, next in 3.50 s"
    assert task_text.progress(waiting, BEGINNING + 20) == "waiting, attempt 2, 20.0 s"
