from __future__ import annotations

import pytest
from pydantic import ValidationError

from example_rows import NOW, TASK_ID, row
from traced_relay.rows import ENDED, STATES, Attempt, Row


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


def test_a_row_ends_in_three_states_and_in_no_other() -> None:
    assert [state for state in STATES if row(state=state).has_ended] == ["succeeded", "failed", "cancelled"]
    assert frozenset(STATES) > ENDED


@pytest.mark.parametrize(
    ("attempts", "failures", "retry_count"),
    [
        ((), 0, 0),
        ((attempt(1),), 0, 0),
        ((attempt(1, "http_503"),), 1, 0),
        ((attempt(1, "http_503"), attempt(2)), 1, 1),
        ((attempt(1, "http_503"), attempt(2, "timeout")), 2, 1),
        ((attempt(7, "timeout"), attempt(8)), 7, 7),
    ],
)
def test_retries_are_the_failures_before_the_last_attempt(
    attempts: tuple[Attempt, ...], failures: int, retry_count: int
) -> None:
    assert row(attempts=attempts, failures=failures).retry_count == retry_count


def test_the_version_is_that_of_the_last_attempt() -> None:
    assert row().version is None
    assert row(attempts=(attempt(1, "timeout", "v1"), attempt(2, None, "v2"))).version == "v2"


def test_a_row_is_strict_but_leaves_aside_what_another_version_added() -> None:
    stored = row().model_dump()
    assert Row.model_validate(stored | {"colour": "red"}) == row()
    for change in ({"attempt": "1"}, {"state": "lost"}, {"created_at": None}):
        with pytest.raises(ValidationError):
            Row.model_validate(stored | change)
