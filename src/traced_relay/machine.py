"""
The state machine of a task: row and event in, Step out.

Pure: no clock, no dice, no ledger. Every effect a Step names is idempotent by
name, so a redelivery that applies it again does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from traced_relay import reasons, retry
from traced_relay.rows import ATTEMPTS_KEPT, Attempt, Response, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DONE, AGAIN = 200, 500
HELD = "held_by_another_worker"


@dataclass(frozen=True)
class Said:
    """A record that whoever commits the step writes."""

    event: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """
    What follows an event.

    *answer* is for the queue; *row* is to be committed (None: nothing changes);
    *begins* lets the downstream be called; *creates* asks for the task that
    *row*, or the row as it was, awaits.
    """

    answer: int = DONE
    row: Row | None = None
    begins: bool = False
    creates: bool = False
    says: tuple[Said, ...] = ()


class Holder(Enum):
    """What is known of the worker that a running row names."""

    ALIVE = "alive"
    LOST = "lost"
    STOPPED = "stopped"  # it said so, while the call was out
    STOPPED_UNSENT = "stopped_unsent"  # and that nothing of this call had left yet


_ENDINGS = {
    Holder.LOST: retry.Ending(None, "worker_lost"),
    Holder.STOPPED: retry.Ending(None, "interrupted"),
    Holder.STOPPED_UNSENT: retry.Ending(None, "interrupted", was_sent=False),
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
        return Step(DONE)
    if row.state == "running":
        if event.number < row.attempt:
            return Step(DONE)
        if holder is Holder.ALIVE:
            return Step(AGAIN, says=(Said("dispatch.deferred", {"reason": HELD}),))
        return end(row, _ENDINGS[holder], response=None, now=now, random=random)
    if event.number != row.attempt + 1:
        return Step(DONE, creates=True)
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
        worker=event.worker,
        next_attempt_at=None,
        first_started_at=now if row.first_started_at is None else row.first_started_at,
        attempts=(*row.attempts[1 - ATTEMPTS_KEPT :], attempt),
    )
    return Step(row=running, begins=True, says=(Said("attempt.started"),))


def end(row: Row, ending: retry.Ending, *, response: Response | None, now: float, random: Callable[[], float]) -> Step:
    """The running attempt is over: what the row becomes, and what comes next."""
    interruptions = row.interruptions + (ending.reason == "interrupted")
    failures = row.failures + (ending.reason is not None)
    verdict = retry.judge(
        row.call.retry,
        idempotent=row.call.idempotent,
        ending=ending,
        history=retry.History(failures - interruptions, failures, max(0.0, now - (row.first_started_at or now))),
        random=random,
    )
    attempt = _judged(row.attempts[-1], ending, verdict, now)
    over = row.model_copy(
        update={
            "attempts": (*row.attempts[:-1], attempt),
            "interruptions": interruptions,
            "failures": failures,
            "worker": None,
            "response": response,
        }
    )
    finished = Said("attempt.finished")
    if verdict.verdict == "retry":
        next_attempt_at = now + (verdict.retry_delay or 0.0)
        waiting = _changed(over, state="waiting", next_attempt_at=next_attempt_at)
        return Step(row=waiting, creates=True, says=(finished,))
    step = _finish(over, "succeeded" if verdict.verdict == "succeeded" else "failed", verdict.reason, now=now)
    return Step(row=step.row, says=(finished, *step.says))


def _judged(attempt: Attempt, ending: retry.Ending, verdict: retry.Verdict, now: float) -> Attempt:
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
    return Step(row=ended, says=(Said("task.finished"),))


def _changed(row: Row, **update: Any) -> Row:
    return row.model_copy(update={**update, "revision": row.revision + 1})
