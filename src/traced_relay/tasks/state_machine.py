"""
The state machine of a task: row and event in, Step out.

Pure: the time and the random numbers are arguments. Every effect that a Step names is idempotent, so that a redelivery
may apply it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field
from msgspec.structs import replace

from traced_relay.formats.durations import ms_between
from traced_relay.tasks import reasons, retry
from traced_relay.tasks.row import ATTEMPTS_KEPT, Attempt, Response, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DONE, AGAIN = 200, 500
HELD = "held_by_another_worker"


class LogEvent(Struct, frozen=True):
    """A record to write once the step is committed."""

    event: str
    fields: Mapping[str, Any] = field(default_factory=dict)


FINISHED = LogEvent("attempt.finished")


class Step(Struct, frozen=True):
    """What follows an event. The booleans are about *row*, or the row as it was."""

    queue_status: int = DONE  # response to Cloud Tasks
    row: Row | None = None  # to be committed; None if nothing changes
    start_attempt: bool = False  # call the downstream after the commit
    create_task: bool = False  # for the attempt that the row awaits
    delete_task: bool = False  # of the attempt that the row awaits
    create_callback: bool = False  # for the end of the row's round
    events: tuple[LogEvent, ...] = ()  # to log after the commit


class Holder(Enum):
    """Status of the worker that a running row names."""

    ALIVE = "alive"
    LOST = "lost"
    STOPPED = "stopped"  # it stopped during the call
    STOPPED_UNSENT = "stopped_unsent"  # it stopped before it had sent anything of this call


_RESULTS = {
    Holder.LOST: retry.AttemptResult(None, "worker_lost"),
    Holder.STOPPED: retry.AttemptResult(None, "interrupted"),
    Holder.STOPPED_UNSENT: retry.AttemptResult(None, "interrupted", was_sent=False),
}


@dataclass(frozen=True)
class WorkerIdentity:
    """A process that runs attempts: *id* is unique to it, *version* and *instance* are the platform's names."""

    id: str
    version: str
    instance: str


class Dispatched(Struct, frozen=True):
    """*worker* received the task of attempt *number*."""

    number: int
    worker: WorkerIdentity
    task_name: str
    queue_delay_ms: int | None


def arrive(row: Row, dispatched: Dispatched, *, now: float, holder: Holder, random: Callable[[], float]) -> Step:
    """The step after a dispatch; *holder* counts only while the row is running."""
    if row.has_ended:
        return Step(DONE, create_callback=row.wants_callback)
    if row.state == "running":
        if dispatched.number < row.attempt:
            return Step(DONE)
        if holder is Holder.ALIVE:
            return Step(AGAIN, events=(LogEvent("dispatch.deferred", {"reason": HELD}),))
        return lose(row, holder, now=now, random=random)
    if dispatched.number != row.awaited:
        return Step(DONE, create_task=True)
    if _has_expired(row, now):
        return _finish(row, "failed", "expired", now=now)
    return _start(row, dispatched, now)


def _has_expired(row: Row, now: float) -> bool:
    limit = row.call.retry.max_retry_duration
    return limit > 0 and row.first_started_at is not None and now - row.first_started_at > limit


def _start(row: Row, dispatched: Dispatched, now: float) -> Step:
    attempt = Attempt(
        attempt=dispatched.number,
        round=row.round,
        task_name=dispatched.task_name,
        span_id="",
        version=dispatched.worker.version,
        instance=dispatched.worker.instance,
        started_at=now,
        queue_delay_ms=dispatched.queue_delay_ms,
    )
    running = _changed(
        row,
        state="running",
        attempt=dispatched.number,
        started=row.started + 1,
        worker=dispatched.worker.id,
        next_attempt_at=None,
        first_started_at=now if row.first_started_at is None else row.first_started_at,
        attempts=(*row.attempts[1 - ATTEMPTS_KEPT :], attempt),
    )
    return Step(row=running, start_attempt=True, events=(LogEvent("attempt.started"),))


def end(
    row: Row, result: retry.AttemptResult, *, response: Response | None, now: float, random: Callable[[], float]
) -> Step:
    """The step after the running attempt ended with *result*."""
    interruptions = row.interruptions + (result.reason == "interrupted")
    verdict = _verdict(row, result, interruptions, now, random)
    over = _with_verdict(row, result, verdict, now).changed(interruptions=interruptions, worker=None, response=response)
    if verdict.verdict == "retry":
        next_attempt_at = now + (verdict.retry_delay or 0.0)
        waiting = _changed(over, state="waiting", awaited=row.attempt + 1, next_attempt_at=next_attempt_at)
        return Step(row=waiting, create_task=True, events=(FINISHED,))
    step = _finish(over, "succeeded" if verdict.verdict == "succeeded" else "failed", verdict.reason, now=now)
    return replace(step, events=(FINISHED, *step.events))


def _verdict(
    row: Row, result: retry.AttemptResult, interruptions: int, now: float, random: Callable[[], float]
) -> retry.Verdict:
    history = retry.History(row.started - interruptions, row.started, max(0.0, now - (row.first_started_at or now)))
    if row.kind == "callback":
        return retry.judge_callback(row.call.retry, result=result, history=history, random=random)
    return retry.judge(row.call.retry, idempotent=row.call.idempotent, result=result, history=history, random=random)


def cancel(row: Row, *, actor: str, now: float) -> Step | None:
    """
    The step that cancels *row*; None if it has ended otherwise.

    A running attempt ends with it; its worker aborts the call later.
    """
    if row.has_ended:
        return Step() if row.state == "cancelled" else None
    cancelled = row.changed(actor=actor, cancel_requested_at=now, worker=None)
    events: tuple[LogEvent, ...] = (LogEvent("task.cancelled", {"actor": actor}),)
    if row.state == "running":
        verdict = retry.Verdict("cancelled", "cancelled", reasons.blame("cancelled"))
        cancelled = _with_verdict(cancelled, retry.AttemptResult(None, "cancelled"), verdict, now)
        events = (FINISHED, *events)
    step = _finish(cancelled, "cancelled", "cancelled", now=now)
    return replace(step, delete_task=row.state != "running", events=(*events, *step.events))


def redrive(row: Row, *, actor: str, now: float) -> Step | None:
    """The step that starts a new round of a failed or cancelled *row*; None in any other state."""
    return _new_round(row, actor, now) if row.state in ("failed", "cancelled") else None


def resend(row: Row, *, actor: str, now: float) -> Step | None:
    """The step that sends a callback again; None if it is still being delivered."""
    return _new_round(row, actor, now) if row.has_ended else None


def _new_round(row: Row, actor: str, now: float) -> Step:
    queued = _changed(
        row,
        state="queued",
        round=row.round + 1,
        awaited=row.awaited + 1,  # Cloud Tasks reserves the name of the last task
        started=0,
        interruptions=0,
        round_due_at=now,
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
    """The step after the worker of the running *row* died or stopped: its attempt ends without a response."""
    return end(row, _RESULTS[holder], response=None, now=now, random=random)


def remove(row: Row, *, now: float) -> Step:
    """The step after an operator purged or deleted the task that *row* awaits: the row is cancelled."""
    return _finish(row, "cancelled", "removed", now=now)


def _with_verdict(row: Row, result: retry.AttemptResult, verdict: retry.Verdict, now: float) -> Row:
    delay = verdict.retry_delay
    return row.with_last_attempt(
        ended_at=now,
        latency_ms=ms_between(row.attempts[-1].started_at, now),
        status_code=result.status_code,
        verdict=verdict.verdict,
        reason=verdict.reason,
        blame=verdict.blame,
        retry_delay_ms=None if delay is None else round(delay * 1000),
        delay_reason=verdict.delay_reason,
    )


def _finish(row: Row, state: str, reason: str | None, *, now: float) -> Step:
    blame = None if reason is None else reasons.blame(reason)
    ended = _changed(row, state=state, finished_at=now, next_attempt_at=None, reason=reason, blame=blame)
    return Step(row=ended, create_callback=ended.wants_callback, events=(LogEvent("task.finished"),))


def _changed(row: Row, **update: Any) -> Row:
    return row.changed(**update, revision=row.revision + 1)
