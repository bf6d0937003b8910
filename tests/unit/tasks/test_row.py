from __future__ import annotations

import pytest

from support.example_rows import NOW, TASK_ID, call, row
from traced_relay.tasks.call import Callback
from traced_relay.tasks.row import Attempt
from traced_relay.tasks.states import ENDED, STATES


def attempt(number: int, reason: str | None = None, version: str = "v1") -> Attempt:
    return Attempt(
        attempt=number,
        round=1,
        task_name=f"{TASK_ID}-{number}",
        span_id="",
        version=version,
        instance="i",
        started_at=NOW,
        reason=reason,
    )


def test_a_row_ends_in_three_states_only() -> None:
    assert [state for state in STATES if row(state=state).has_ended] == ["succeeded", "failed", "cancelled"]
    assert frozenset(STATES) > ENDED


def test_retry_count_counts_earlier_attempts_of_the_round() -> None:
    assert [row(started=started).retry_count for started in (0, 1, 2, 7)] == [0, 0, 1, 6]


@pytest.mark.parametrize(
    ("times", "total_ms"),
    [
        ({}, 9000),
        ({"schedule_time": NOW + 3}, 6000),
        ({"schedule_time": NOW - 3}, 9000),
        ({"schedule_time": NOW + 3, "first_started_at": NOW + 5}, 6000),
        ({"schedule_time": NOW + 3600, "first_started_at": NOW + 8}, 1000),
        ({"schedule_time": NOW + 3600}, 0),
        ({"first_started_at": NOW - 1}, 9000),
        ({"finished_at": None}, None),
    ],
)
def test_a_round_lasts_from_when_it_was_due(times: dict[str, float | None], total_ms: int | None) -> None:
    assert row(**{"state": "succeeded", "finished_at": NOW + 9} | times).total_ms == total_ms


def test_a_row_expires_after_it_and_its_callback_have_ended() -> None:
    ended = {"state": "failed", "finished_at": NOW}
    told = call(callback=Callback(url="https://hooks.example.com/", on=("failed",)))
    assert row().expires_at(60) is None
    assert row(**ended).expires_at(60) == NOW + 60
    assert row(**ended, call=told).expires_at(60) is None
    assert row(**ended, call=told, callback_ended_at=NOW + 10).expires_at(60) == NOW + 70
    assert row(call=told, state="succeeded", finished_at=NOW).expires_at(60) == NOW + 60


def test_the_version_is_that_of_the_last_attempt() -> None:
    assert row().version is None
    assert row(attempts=(attempt(1, "timeout", "v1"), attempt(2, None, "v2"))).version == "v2"
