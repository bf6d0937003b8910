from __future__ import annotations

from typing import Any

import pytest

from support.example_rows import BUSY, NOW, SUCCESS, call, dispatched, row
from traced_relay.tasks.call import Callback
from traced_relay.tasks.retry import AttemptResult
from traced_relay.tasks.row import Response, Row
from traced_relay.tasks.state_machine import (
    DONE,
    FINISHED,
    Holder,
    LogEvent,
    Step,
    arrive,
    cancel,
    end,
    lose,
    redrive,
    remove,
    resend,
)

OVER = LogEvent("task.finished")
WHO = "oncall@example.com"
TOLD = Callback(url="https://hooks.example.com/")


def begun(before: Row) -> Row:
    return committed(arrive(before, dispatched(before.awaited), now=NOW, holder=Holder.LOST, random=lambda: 0.5))


def ended(before: Row, ending: AttemptResult, response: Response | None = None) -> Row:
    return committed(end(before, ending, response=response, now=NOW + 2, random=lambda: 0.5))


def committed(step: Step | None) -> Row:
    assert step is not None
    assert step.row is not None
    return step.row


def verdict(before: Row) -> tuple[Any, ...]:
    last = before.attempts[-1]
    return last.verdict, last.reason, last.blame, last.ended_at


def test_cancelling_a_waiting_task_deletes_its_queue_task() -> None:
    step = cancel(row(), actor=WHO, now=NOW + 5)
    after = committed(step)
    assert step == Step(DONE, after, delete_task=True, events=(LogEvent("task.cancelled", {"actor": WHO}), OVER))
    assert (after.state, after.reason, after.blame, after.finished_at) == ("cancelled", "cancelled", "caller", NOW + 5)
    assert (after.actor, after.cancel_requested_at, after.next_attempt_at) == (WHO, NOW + 5, None)


def test_cancelling_a_running_task_ends_its_attempt() -> None:
    step = cancel(begun(row()), actor=WHO, now=NOW + 5)
    after = committed(step)
    assert step == Step(DONE, after, events=(FINISHED, LogEvent("task.cancelled", {"actor": WHO}), OVER))
    assert verdict(after) == ("cancelled", "cancelled", "caller", NOW + 5)
    assert (after.state, after.worker) == ("cancelled", None)


def test_cancelling_a_waiting_task_keeps_its_last_response() -> None:
    waiting = ended(begun(row()), BUSY, Response(status_code=503, headers={}))
    assert committed(cancel(waiting, actor=WHO, now=NOW)).response == Response(status_code=503, headers={})


def test_a_task_that_ended_otherwise_cannot_be_cancelled() -> None:
    assert cancel(row(state="cancelled"), actor=WHO, now=NOW) == Step()
    assert cancel(row(state="succeeded"), actor=WHO, now=NOW) is None
    assert cancel(row(state="failed"), actor=WHO, now=NOW) is None


@pytest.mark.parametrize("state", ["queued", "waiting", "running", "succeeded"])
def test_only_a_failed_or_cancelled_task_is_redriven(state: str) -> None:
    assert redrive(row(state=state), actor=WHO, now=NOW) is None


def test_a_redrive_starts_a_new_round_with_the_whole_policy() -> None:
    patient = call(retry=call().retry.model_copy(update={"max_attempts": 2}))
    one = begun(ended(begun(row(call=patient)), BUSY))
    failed = ended(one, BUSY)
    assert failed.state == "failed"
    step = redrive(failed, actor=WHO, now=NOW + 60)
    again = committed(step)
    assert step == Step(DONE, again, create_task=True, events=(LogEvent("task.redriven", {"actor": WHO}),))
    assert (again.state, again.round, again.attempt, again.awaited) == ("queued", 2, 2, 3)
    assert (again.started, again.retry_count, again.reason, again.finished_at) == (0, 0, None, None)
    assert again.next_attempt_at == again.scheduled_at == again.due_at == NOW + 60
    third = begun(again)
    assert (third.attempt, third.attempts[-1].round, third.retry_count) == (3, 2, 0)
    assert ended(third, BUSY).state == "waiting"
    assert ended(begun(ended(third, BUSY)), BUSY).state == "failed"


def test_a_redrive_of_an_unstarted_task_uses_a_new_task_name() -> None:
    cancelled = committed(cancel(row(), actor=WHO, now=NOW))
    again = committed(redrive(cancelled, actor=WHO, now=NOW))
    assert (again.attempt, again.awaited) == (0, 2)  # the queue gives no name twice
    first = begun(again)
    assert (first.attempt, first.started, first.retry_count) == (2, 1, 0)


def test_an_earlier_rounds_dispatch_starts_nothing() -> None:
    again = committed(redrive(committed(cancel(row(), actor=WHO, now=NOW)), actor=WHO, now=NOW))
    assert arrive(again, dispatched(), now=NOW, holder=Holder.LOST, random=lambda: 0.5) == Step(DONE, create_task=True)


def test_a_cancelled_calls_late_result_has_an_old_revision() -> None:
    running = begun(row())
    cancelled = committed(cancel(running, actor=WHO, now=NOW))
    late = ended(running, SUCCESS)
    assert late.revision == cancelled.revision  # so a compare-and-set lets only one of the two in


@pytest.mark.parametrize(
    ("ending", "on", "create_callback"),
    [
        (SUCCESS, ("succeeded",), True),
        (SUCCESS, ("failed", "cancelled"), False),
        (AttemptResult(404, "http_404"), ("failed",), True),
        (AttemptResult(404, "http_404"), ("succeeded",), False),
    ],
)
def test_an_end_creates_a_callback_if_it_was_asked_for(ending: AttemptResult, on: Any, create_callback: bool) -> None:
    before = begun(row(call=call(callback=Callback(url=TOLD.url, on=on))))
    step = end(before, ending, response=None, now=NOW, random=lambda: 0.5)
    assert step.create_callback is create_callback
    again = arrive(committed(step), dispatched(worker="w2"), now=NOW, holder=Holder.LOST, random=lambda: 0.5)
    assert again == Step(
        DONE, create_callback=create_callback
    )  # applied again: whoever ended it may not have come to make the task


def test_a_cancelled_or_removed_task_wants_its_callback() -> None:
    wanted = row(call=call(callback=TOLD))
    assert (cancel(wanted, actor=WHO, now=NOW) or Step()).create_callback
    assert remove(wanted, now=NOW).create_callback


def test_a_task_removed_from_its_queue_ends_as_cancelled() -> None:
    step = remove(row(), now=NOW + 90)
    after = committed(step)
    assert step == Step(DONE, after, events=(OVER,))
    assert (after.state, after.reason, after.blame) == ("cancelled", "removed", "platform")


@pytest.mark.parametrize(("holder", "reason"), [(Holder.LOST, "worker_lost"), (Holder.STOPPED, "interrupted")])
def test_a_lost_workers_attempt_is_judged_without_a_dispatch(holder: Holder, reason: str) -> None:
    step = lose(begun(row(call=call(idempotent=True))), holder, now=NOW + 60, random=lambda: 0.5)
    assert verdict(committed(step))[:2] == ("retry", reason)
    assert step.create_task


def told(**changes: Any) -> Row:
    wanted = call(retry=call().retry.model_copy(update={"min_backoff": 5.0}), idempotent=True)
    return row(kind="callback", callback_of="f" * 32, callback_round=1, call=wanted, **changes)


def test_a_callback_keeps_its_own_schedule_and_then_fails() -> None:
    delays, current = [], told()
    while not current.has_ended:
        current = committed(end(begun(current), BUSY, response=None, now=NOW, random=lambda: 0.0))
        delays.append(None if current.next_attempt_at is None else current.next_attempt_at - NOW)
    hours = [hour * 3600.0 for hour in (0.5, 2, 5, 10, 14, 20, 24)]
    assert delays == [5.0, 300.0, *hours, None]
    assert (current.state, current.reason, current.attempt) == ("failed", "http_503", 10)


@pytest.mark.parametrize(
    "ending", [AttemptResult(404, "http_404"), AttemptResult(302, "redirect"), AttemptResult(None, "tls_failed")]
)
def test_a_reason_that_ends_a_call_does_not_end_a_callback(ending: AttemptResult) -> None:
    assert ended(begun(told()), ending).state == "waiting"


@pytest.mark.parametrize("ending", [AttemptResult(410, "http_410"), AttemptResult(None, "denied", was_sent=False)])
def test_a_gone_or_denied_receiver_ends_a_callback(ending: AttemptResult) -> None:
    assert ended(begun(told()), ending).state == "failed"


def test_a_callbacks_delay_has_jitter_and_honours_retry_after() -> None:
    def delay(ending: AttemptResult, dice: float) -> float | None:
        after = committed(end(begun(told()), ending, response=None, now=NOW, random=lambda: dice))
        return None if after.next_attempt_at is None else after.next_attempt_at - NOW

    assert delay(BUSY, 1.0) == 6.0
    assert delay(AttemptResult(503, "http_503", retry_after=60.0), 0.5) == 60.0
    assert delay(AttemptResult(503, "http_503", retry_after=90_000.0), 0.5) is None


@pytest.mark.parametrize("state", ["succeeded", "failed"])
def test_a_resent_callback_starts_a_new_round(state: str) -> None:
    again = committed(resend(told(state=state, attempt=1, started=1, revision=4), actor=WHO, now=NOW))
    assert (again.state, again.round, again.awaited, again.callback_round) == ("queued", 2, 2, 1)


@pytest.mark.parametrize("state", ["queued", "running", "waiting"])
def test_a_pending_callback_is_not_resent(state: str) -> None:
    assert resend(told(state=state), actor=WHO, now=NOW) is None
