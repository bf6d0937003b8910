from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from support.example_rows import NOW, TASK_ID, call, row
from traced_relay.tasks.call import Call, Callback
from traced_relay.tasks.row import Attempt, Response, Row
from traced_relay.tasks.states import ENDED, STATES

if TYPE_CHECKING:
    from traced_relay.tasks.stored import Stored

NONE_IN_ROW = (
    *("adopted_task_name", "callback_of", "callback_round", "sent_at", "round_due_at", "finished_at"),
    *("first_started_at", "cancel_requested_at", "actor", "worker", "callback_ended_at", "reason", "blame", "response"),
)
NONE_IN_ATTEMPT = (
    *("ended_at", "queue_delay_ms", "latency_ms", "status_code", "verdict", "reason", "blame", "retry_delay_ms"),
    "delay_reason",
)
# A ledger does not write a default: to change one here changes the rows that are stored.
DEFAULTS: dict[type[Stored], dict[str, Any]] = {
    Row: {
        **dict.fromkeys(NONE_IN_ROW),
        **dict.fromkeys(("attempt", "started", "interruptions", "noted_attempt"), 0),
        **dict.fromkeys(("round", "first_number", "awaited", "revision"), 1),
        "kind": "call",
        "state": "queued",
        "fingerprint": "",
        "origin": "",
        "attempts": (),
    },
    Attempt: dict.fromkeys(NONE_IN_ATTEMPT),
    Response: {"body": b"", "truncated": False},
    Call: {"method": "POST", "headers": {}, "body": b"", "idempotent": False, "labels": {}, "callback": None},
}


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


@pytest.mark.parametrize("stored", DEFAULTS)
def test_a_default_of_what_is_stored_never_changes(stored: type[Stored]) -> None:
    found = {
        each.name: each.default if each.default_factory is msgspec.NODEFAULT else each.default_factory()
        for each in msgspec.structs.fields(stored)
        if not each.required
    }
    assert {name: repr(found[name]) for name in found} == {
        name: repr(default) for name, default in DEFAULTS[stored].items()
    }


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
