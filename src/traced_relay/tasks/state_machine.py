"""
The state machine of a task: row and event in, Step out.

Pure: no clock, no dice, no ledger. Every effect a Step names is idempotent by
name, so a redelivery that applies it again does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from traced_relay.tasks import reasons, retry
from traced_relay.tasks.row import ATTEMPTS_KEPT, Attempt, Response, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DONE, AGAIN = 200, 500
HELD = "held_by_another_worker"


@dataclass(frozen=True)
class LogEvent:
    """A record that whoever commits the step writes."""

    event: str
    fields: Mapping[str, Any] = field(default_factory=dict)


FINISHED = LogEvent("attempt.finished")


@dataclass(frozen=True)
class Step:
    """
    What follows an event.

    *answer* is for the queue; *row* is to be committed (None: nothing changes);
    *begins* lets the downstream be called. The rest is about *row*, or the row
    as it was: *creates* asks for the task that it awaits, *deletes* takes that
    away, *tells* asks for the callback of its end.
    """

    answer: int = DONE
    row: Row | None = None
    start_attempt: bool = False
    create_task: bool = False
    delete_task: bool = False
    create_callback: bool = False
    events: tuple[LogEvent, ...] = ()


class Holder(Enum):
    """What is known of the worker that a running row names."""

    ALIVE = "alive"
    LOST = "lost"
    STOPPED = "stopped"  # it said so, while the call was out
    STOPPED_UNSENT = "stopped_unsent"  # and that nothing of this call had left yet


_ENDINGS = {
    Holder.LOST: retry.AttemptResult(None, "worker_lost"),
    Holder.STOPPED: retry.AttemptResult(None, "interrupted"),
    Holder.STOPPED_UNSENT: retry.AttemptResult(None, "interrupted", was_sent=False),
}


@dataclass(frozen=True)
class Dispatched:
    """A dispatch of the task's attempt *number* arrived at *worker*."""

    number: int
    worker: str
    task_name: str
    version: str
    instance: str
    queue_delay_ms: int | None


def arrive(row: Row, event: Dispatched, *, now: float, holder: Holder, random: Callable[[], float]) -> Step:
    """
    A dispatch came in.

    *holder* counts only while the row is running.
    """
    if row.has_ended:
        return Step(DONE, create_callback=row.wants_callback)
    if row.state == "running":
        if event.number < row.attempt:
            return Step(DONE)
        if holder is Holder.ALIVE:
            return Step(AGAIN, events=(LogEvent("dispatch.deferred", {"reason": HELD}),))
        return lose(row, holder, now=now, random=random)
    if event.number != row.awaited:
        return Step(DONE, create_task=True)
    if _has_expired(row, now):
        return _finish(row, "failed", "expired", now=now)
    return _begin(row, event, now)


def _has_expired(row: Row, now: float) -> bool:
    limit = row.call.retry.max_retry_duration
    return limit > 0 and row.first_started_at is not None and now - row.first_started_at > limit


def _begin(row: Row, event: Dispatched, now: float) -> Step:
    attempt = Attempt(
        attempt=event.number,
        round=row.round,
        task_name=event.task_name,
        span_id="",
        version=event.version,
        instance=event.instance,
        started_at=now,
        queue_delay_ms=event.queue_delay_ms,
    )
    running = _changed(
        row,
        state="running",
        attempt=event.number,
        started=row.started + 1,
        worker=event.worker,
        next_attempt_at=None,
        first_started_at=now if row.first_started_at is None else row.first_started_at,
        attempts=(*row.attempts[1 - ATTEMPTS_KEPT :], attempt),
    )
    return Step(row=running, start_attempt=True, events=(LogEvent("attempt.started"),))


def end(
    row: Row, ending: retry.AttemptResult, *, response: Response | None, now: float, random: Callable[[], float]
) -> Step:
    """The running attempt is over: what the row becomes, and what comes next."""
    interruptions = row.interruptions + (ending.reason == "interrupted")
    verdict = _verdict(row, ending, interruptions, now, random)
    over = row.model_copy(
        update={
            "attempts": (*row.attempts[:-1], _judged(row.attempts[-1], ending, verdict, now)),
            "interruptions": interruptions,
            "worker": None,
            "response": response,
        }
    )
    if verdict.verdict == "retry":
        next_attempt_at = now + (verdict.retry_delay or 0.0)
        waiting = _changed(over, state="waiting", awaited=row.attempt + 1, next_attempt_at=next_attempt_at)
        return Step(row=waiting, create_task=True, events=(FINISHED,))
    step = _finish(over, "succeeded" if verdict.verdict == "succeeded" else "failed", verdict.reason, now=now)
    return replace(step, events=(FINISHED, *step.events))


def _verdict(
    row: Row, ending: retry.AttemptResult, interruptions: int, now: float, random: Callable[[], float]
) -> retry.Verdict:
    history = retry.History(row.started - interruptions, row.started, max(0.0, now - (row.first_started_at or now)))
    if row.kind == "callback":
        return retry.judge_callback(row.call.retry, ending=ending, history=history, random=random)
    return retry.judge(row.call.retry, idempotent=row.call.idempotent, ending=ending, history=history, random=random)


def cancel(row: Row, *, actor: str, now: float) -> Step | None:
    """
    Somebody does not want it any more; None if it has ended otherwise.

    A running attempt ends here and now, whatever its worker has still to learn.
    """
    if row.has_ended:
        return Step() if row.state == "cancelled" else None
    wanted = row.model_copy(update={"actor": actor, "cancel_requested_at": now, "worker": None})
    events: tuple[LogEvent, ...] = (LogEvent("task.cancelled", {"actor": actor}),)
    if row.state == "running":
        attempt = _judged(
            row.attempts[-1],
            retry.AttemptResult(None, "cancelled"),
            retry.Verdict("cancelled", "cancelled", reasons.blame("cancelled")),
            now,
        )
        wanted = wanted.model_copy(update={"attempts": (*row.attempts[:-1], attempt)})
        events = (FINISHED, *events)
    step = _finish(wanted, "cancelled", "cancelled", now=now)
    return replace(step, delete_task=row.state != "running", events=(*events, *step.events))


def redrive(row: Row, *, actor: str, now: float) -> Step | None:
    """A new round with the policy afresh, of what failed or was cancelled; None of anything else."""
    return _again(row, actor, now) if row.state in ("failed", "cancelled") else None


def resend(row: Row, *, actor: str, now: float) -> Step | None:
    """A callback that has ended, however it did, once more; None if it is still under way."""
    return _again(row, actor, now) if row.has_ended else None


def _again(row: Row, actor: str, now: float) -> Step:
    queued = _changed(
        row,
        state="queued",
        round=row.round + 1,
        awaited=row.awaited + 1,  # whatever was the name of the last task, it may not be used again for a day
        started=0,
        interruptions=0,
        schedule_time=now,
        next_attempt_at=now,
        first_started_at=None,
        finished_at=None,
        callback_ended_at=None,
        cancel_requested_at=None,
        actor=actor,
        reason=None,
        blame=None,
        response=None,
    )
    return Step(row=queued, create_task=True, events=(LogEvent("task.redriven", {"actor": actor}),))


def lose(row: Row, holder: Holder, *, now: float, random: Callable[[], float]) -> Step:
    """The worker of the running *row* is gone: its attempt is over without an answer."""
    return end(row, _ENDINGS[holder], response=None, now=now, random=random)


def remove(row: Row, *, now: float) -> Step:
    """The task that *row* awaits was there and is no more: somebody purged or deleted it, and that holds."""
    return _finish(row, "cancelled", "removed", now=now)


def _judged(attempt: Attempt, ending: retry.AttemptResult, verdict: retry.Verdict, now: float) -> Attempt:
    delay = verdict.retry_delay
    return attempt.model_copy(
        update={
            "ended_at": now,
            "latency_ms": max(0, round((now - attempt.started_at) * 1000)),
            "status_code": ending.status_code,
            "verdict": verdict.verdict,
            "reason": verdict.reason,
            "blame": verdict.blame,
            "retry_delay_ms": None if delay is None else round(delay * 1000),
            "delay_reason": verdict.delay_reason,
        }
    )


def _finish(row: Row, state: str, reason: str | None, *, now: float) -> Step:
    blame = None if reason is None else reasons.blame(reason)
    ended = _changed(row, state=state, finished_at=now, next_attempt_at=None, reason=reason, blame=blame)
    return Step(row=ended, create_callback=ended.wants_callback, events=(LogEvent("task.finished"),))


def _changed(row: Row, **update: Any) -> Row:
    return row.model_copy(update={**update, "revision": row.revision + 1})
