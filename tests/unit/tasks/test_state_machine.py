from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import asdict

from support.example_rows import BUSY, MISSING, NOW, SUCCESS, TASK_ID, call, dispatched, policy, row
from traced_relay.tasks.retry import AttemptResult
from traced_relay.tasks.row import Attempt, Response, Row
from traced_relay.tasks.state_machine import (
    AGAIN,
    DONE,
    Holder,
    LogEvent,
    Step,
    arrive,
    end,
)

STARTED = LogEvent("attempt.started")
FINISHED, OVER = LogEvent("attempt.finished"), LogEvent("task.finished")
LOST = AttemptResult(None, "worker_lost")
GONE = [Holder.LOST, Holder.STOPPED, Holder.STOPPED_UNSENT]


def arrived(
    before: Row, number: int = 1, *, now: float = NOW, holder: Holder = Holder.LOST, worker: str = "w1"
) -> Step:
    return arrive(before, dispatched(number, worker), now=now, holder=holder, random=lambda: 0.5)


def ended(before: Row, ending: AttemptResult, *, now: float = NOW + 2, response: Response | None = None) -> Step:
    return end(before, ending, response=response, now=now, random=lambda: 0.5)


def running(number: int = 1, **changes: Any) -> Row:
    """A row whose attempt *number* runs, after failures."""
    state = "waiting" if number > 1 else "queued"
    before = row(attempt=number - 1, awaited=number, started=number - 1, state=state, **changes)
    step = arrived(before, number)
    assert step.row is not None
    return step.row


def committed(step: Step) -> Row:
    assert step.row is not None
    return step.row


def changes(before: Row, after: Row) -> dict[str, Any]:
    return {name: value for name, value in asdict(after).items() if value != getattr(before, name)}


FIRST = Attempt(
    attempt=1,
    round=1,
    task_name=f"{TASK_ID}-1",
    span_id="",
    version="v1",
    instance="i1",
    started_at=NOW,
    queue_delay_ms=12,
)


def test_the_awaited_dispatch_starts_the_attempt() -> None:
    before = row()
    step = arrived(before)
    assert step == Step(DONE, step.row, start_attempt=True, events=(STARTED,))
    assert changes(before, committed(step)) == {
        "state": "running",
        "attempt": 1,
        "started": 1,
        "worker": "w1",
        "next_attempt_at": None,
        "first_started_at": NOW,
        "attempts": (FIRST,),
        "revision": 2,
    }


def test_a_later_attempt_keeps_when_the_first_one_started() -> None:
    before = row(
        state="waiting", attempt=1, awaited=2, started=1, first_started_at=NOW - 60, attempts=(FIRST,), revision=3
    )
    after = committed(arrived(before, 2))
    assert (after.attempt, after.first_started_at, after.revision) == (2, NOW - 60, 4)
    assert [attempt.attempt for attempt in after.attempts] == [1, 2]


@pytest.mark.parametrize("state", ["queued", "waiting"])
@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_another_tasks_dispatch_creates_the_awaited_task_again(state: str, number: int) -> None:
    assert arrived(row(state=state, attempt=3, awaited=4), number) == Step(DONE, create_task=True)


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_dispatch_after_the_end_changes_nothing(state: str, number: int) -> None:
    assert arrived(row(state=state, attempt=2), number, holder=Holder.ALIVE) == Step(DONE)


@pytest.mark.parametrize("holder", Holder)
def test_an_older_attempts_dispatch_is_done_while_one_runs(holder: Holder) -> None:
    assert arrived(running(2), 1, holder=holder) == Step(DONE)


@pytest.mark.parametrize("holder", Holder)
def test_a_holder_counts_only_while_an_attempt_runs(holder: Holder) -> None:
    assert arrived(row(), holder=holder).start_attempt
    assert arrived(row(state="waiting", attempt=1, awaited=2), 2, holder=holder).start_attempt


@pytest.mark.parametrize("number", [2, 3])
def test_a_dispatch_of_a_running_attempt_is_deferred(number: int) -> None:
    deferred = LogEvent("dispatch.deferred", {"reason": "held_by_another_worker"})
    assert arrived(running(2), number, holder=Holder.ALIVE) == Step(AGAIN, events=(deferred,))


def test_an_attempt_of_a_lost_worker_ends_as_worker_lost() -> None:
    before = running(1, call=call(idempotent=True))
    assert arrived(before, 1, now=NOW + 30, worker="w2") == ended(before, LOST, now=NOW + 30)


@pytest.mark.parametrize(
    ("holder", "idempotent", "state", "reason", "interruptions"),
    [
        (Holder.LOST, False, "failed", "worker_lost", 0),
        (Holder.LOST, True, "waiting", "worker_lost", 0),
        (Holder.STOPPED, False, "failed", "interrupted", 1),
        (Holder.STOPPED, True, "waiting", "interrupted", 1),
        (Holder.STOPPED_UNSENT, False, "waiting", "interrupted", 1),
        (Holder.STOPPED_UNSENT, True, "waiting", "interrupted", 1),
    ],
)
def test_an_abandoned_attempt_is_judged_by_its_holder(
    holder: Holder, idempotent: bool, state: str, reason: str, interruptions: int
) -> None:
    before = running(1, call=call(idempotent=idempotent))
    step = arrived(before, 1, now=NOW + 30, holder=holder, worker="w2")
    after = committed(step)
    again = state == "waiting"
    assert step == Step(DONE, after, create_task=again, events=(FINISHED,) if again else (FINISHED, OVER))
    assert (after.state, after.worker, after.attempt, after.interruptions) == (state, None, 1, interruptions)
    assert (after.reason, after.blame) == ((None, None) if again else (reason, "platform"))
    assert after.next_attempt_at == (NOW + 40 if again else None)
    last = after.attempts[-1]
    assert (last.verdict, last.reason, last.blame) == ("retry" if again else "gave_up", reason, "platform")
    assert (last.ended_at, last.latency_ms, last.status_code) == (NOW + 30, 30_000, None)


@pytest.mark.parametrize("holder", GONE)
def test_only_a_worker_that_was_lost_uses_up_an_attempt(holder: Holder) -> None:
    last = running(5, call=call(idempotent=True))
    expected = "failed" if holder is Holder.LOST else "waiting"
    assert committed(arrived(last, 5, holder=holder)).state == expected


def test_a_success_ends_the_task() -> None:
    before, response = running(), Response(status_code=200, headers={}, body=b"ok")
    step = ended(before, SUCCESS, response=response)
    assert step == Step(DONE, step.row, events=(FINISHED, OVER))
    assert changes(before, committed(step)) == {
        "state": "succeeded",
        "finished_at": NOW + 2,
        "worker": None,
        "response": response,
        "attempts": (FIRST.changed(ended_at=NOW + 2, latency_ms=2000, status_code=200, verdict="succeeded"),),
        "revision": 3,
    }


def test_a_retryable_failure_awaits_the_next_attempt() -> None:
    before = running()
    step = ended(before, BUSY)
    assert step == Step(DONE, step.row, create_task=True, events=(FINISHED,))
    assert changes(before, committed(step)) == {
        "state": "waiting",
        "next_attempt_at": NOW + 12,
        "worker": None,
        "awaited": 2,
        "attempts": (
            FIRST.changed(
                ended_at=NOW + 2,
                latency_ms=2000,
                status_code=503,
                verdict="retry",
                reason="http_503",
                blame="downstream",
                retry_delay_ms=10_000,
                delay_reason="backoff",
            ),
        ),
        "revision": 3,
    }


def test_a_failure_that_is_not_retryable_ends_the_task() -> None:
    before = running()
    step = ended(before, MISSING)
    after = committed(step)
    assert step == Step(DONE, after, events=(FINISHED, OVER))
    assert (after.state, after.reason, after.blame, after.finished_at) == ("failed", "http_404", "caller", NOW + 2)
    assert (after.attempts[-1].verdict, after.attempts[-1].reason) == ("gave_up", "http_404")


def test_the_last_allowed_attempt_ends_the_task() -> None:
    four, five = committed(ended(running(4), BUSY)), committed(ended(running(5), BUSY))
    assert (four.state, five.state, five.reason) == ("waiting", "failed", "http_503")


def test_max_retry_duration_counts_from_the_first_attempt() -> None:
    hurried = call(retry=policy(max_retry_duration="60s"))
    assert committed(ended(running(2, call=hurried, first_started_at=NOW - 30), BUSY, now=NOW + 10)).state == "waiting"
    assert committed(ended(running(2, call=hurried, first_started_at=NOW - 31), BUSY, now=NOW + 10)).state == "failed"


def test_an_interrupted_attempt_counts_only_for_the_backoff() -> None:
    interrupted = AttemptResult(None, "interrupted", was_sent=False)
    after = committed(ended(running(5), interrupted))
    assert (after.state, after.interruptions, after.started) == ("waiting", 1, 5)
    last = committed(ended(committed(arrived(after, 6)), BUSY))
    assert (last.state, last.attempt, last.reason) == ("failed", 6, "http_503")


def test_an_attempt_without_response_clears_the_earlier_one() -> None:
    answered = running(2).changed(response=Response(status_code=503, headers={}))
    assert committed(ended(answered, AttemptResult(None, "dns_failed"))).response is None


def test_no_attempt_starts_after_max_retry_duration() -> None:
    hurried = call(retry=policy(max_retry_duration="60s"))
    before = row(
        call=hurried, state="waiting", attempt=1, awaited=2, started=1, first_started_at=NOW, attempts=(FIRST,)
    )
    assert arrived(before, 2, now=NOW + 60).start_attempt
    step = arrived(before, 2, now=NOW + 60.1)
    assert step == Step(DONE, step.row, events=(OVER,))
    assert changes(before, committed(step)) == {
        "state": "failed",
        "finished_at": NOW + 60.1,
        "next_attempt_at": None,
        "reason": "expired",
        "blame": "relay",
        "revision": 2,
    }


def test_a_clock_set_back_makes_no_duration_negative() -> None:
    before = running(call=call(retry=policy(max_retry_duration="60s")))
    step = ended(before, BUSY, now=NOW - 3600)
    after = committed(step)
    assert (after.state, after.attempts[-1].latency_ms, after.next_attempt_at) == ("waiting", 0, NOW - 3590)
    assert committed(ended(before, SUCCESS, now=NOW - 3600)).attempts[-1].latency_ms == 0


def test_a_queue_status_is_200_or_500_only() -> None:
    assert (DONE, AGAIN) == (200, 500)


def test_a_first_attempt_never_expires() -> None:
    assert arrived(row(call=call(retry=policy(max_retry_duration="1s"))), 1, now=NOW + 86_400).start_attempt


def test_the_last_hundred_attempts_are_kept() -> None:
    patient = call(retry=policy(max_attempts=200, min_backoff="0s"))
    after = row(call=patient)
    for number in range(1, 151):
        after = committed(ended(committed(arrived(after, number)), BUSY))
    assert [attempt.attempt for attempt in after.attempts] == list(range(51, 151))
    assert (after.attempt, after.started, after.retry_count, after.next_attempt_at) == (150, 150, 149, NOW + 2)
