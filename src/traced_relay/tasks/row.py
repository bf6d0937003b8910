"""One task as the ledger stores it. Times are seconds since the epoch."""

from __future__ import annotations

from typing import Any, Literal

from traced_relay.formats.durations import ms_between
from traced_relay.formats.trace_context import TraceContext
from traced_relay.tasks.call import Call
from traced_relay.tasks.ids import attempt_name
from traced_relay.tasks.states import ENDED, State
from traced_relay.tasks.stored import Stored

ATTEMPTS_KEPT = 100


class Attempt(Stored, frozen=True, kw_only=True):
    """One exchange with the downstream, from claim to verdict."""

    attempt: int
    round: int
    task_name: str
    span_id: str  # of the `process` span
    version: str
    instance: str
    started_at: float
    ended_at: float | None = None
    queue_delay_ms: int | None = None
    latency_ms: int | None = None
    status_code: int | None = None
    verdict: str | None = None
    reason: str | None = None
    blame: str | None = None
    retry_delay_ms: int | None = None
    delay_reason: str | None = None


class Response(Stored, frozen=True, kw_only=True):
    """The downstream's last response; the *body* is raw bytes, *truncated* if it was longer than the limit."""

    status_code: int
    headers: dict[str, str]
    body: bytes = b""
    truncated: bool = False


class Row(Stored, frozen=True, kw_only=True):
    """One task: a call, or the callback that reports a call's end. A row changes by compare-and-set on *revision*."""

    task_id: str
    kind: Literal["call", "callback", "direct"] = "call"  # direct: keeps the key of a call with route direct
    queue: str
    call: Call
    rule: str | None  # name of the downstream rule at enqueue
    caller: str  # who enqueued it; "adopted" for a bare task
    fingerprint: str = ""  # hash of the enqueue request, to recognise another one with the same Idempotency-Key
    origin: str = ""  # scheme and host with which links start
    adopted_task_name: str | None = None  # full name of the bare task that this row was made for
    callback_of: str | None = None  # of a callback: task_id of its call
    callback_round: int | None = None  # of a callback: the round that it reports
    sent_at: float | None = None  # of a callback: when the `send` span of its call started
    carrier: dict[str, str]  # traceparent and tracestate of the first `send` span; the next three are its parts
    trace_id: str
    span_id: str
    sampled: bool
    state: State = "queued"
    round: int = 1  # a redrive starts the next one
    created_at: float
    schedule_time: float  # when the first round was due
    round_due_at: float | None = None  # when a later round was started
    next_attempt_at: float | None  # when the awaited task is due; None while running and after the end
    finished_at: float | None = None
    first_started_at: float | None = None  # start of this round's first attempt
    cancel_requested_at: float | None = None
    actor: str | None = None  # who cancelled, redrove or resent it last
    attempt: int = 0  # number of the last attempt started; goes on over rounds
    first_number: int = 1  # of the first task; more if names of an earlier row with the same key are still reserved
    awaited: int = 1  # number of the attempt whose task may start next, or has started last
    started: int = 0  # attempts started in this round
    interruptions: int = 0  # attempts of this round that count against no limit
    worker: str | None = None  # id of the process that runs the attempt
    noted_attempt: int = 0  # last attempt whose task is known to exist; written without a new revision
    callback_ended_at: float | None = None  # end of this round's callback; written without a new revision
    reason: str | None = None
    blame: str | None = None
    attempts: tuple[Attempt, ...] = ()  # the last ATTEMPTS_KEPT
    response: Response | None = None
    revision: int = 1

    @property
    def trace(self) -> TraceContext:
        return TraceContext(self.carrier, self.trace_id, self.span_id, self.sampled)

    def with_last_attempt(self, **update: Any) -> Row:
        return self.changed(attempts=(*self.attempts[:-1], self.attempts[-1].changed(**update)))

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    @property
    def retry_count(self) -> int:
        """How many attempts of this round failed before the last one started."""
        return max(0, self.started - 1)

    @property
    def scheduled_at(self) -> float:
        """When this round was scheduled."""
        return self.schedule_time if self.round_due_at is None else self.round_due_at

    @property
    def due_at(self) -> float:
        """When this round was due: as scheduled, or when its first attempt started, if that was forced earlier."""
        times = (self.scheduled_at, self.first_started_at)
        return max(self.created_at, min(time for time in times if time is not None))

    @property
    def total_ms(self) -> int | None:
        """Time from when this round was due to its end; None before."""
        return None if self.finished_at is None else ms_between(self.due_at, self.finished_at)

    def trace_age(self, now: float) -> float:
        """Seconds since the start of the `send` span under which all spans of this task are."""
        return now - (self.created_at if self.sent_at is None else self.sent_at)

    @property
    def attempt_name(self) -> str:
        """The last attempt started, by its task's short name."""
        return attempt_name(self.task_id, self.attempt)

    @property
    def lacks_task(self) -> bool:
        """Whether the first task is not known to exist."""
        return self.state == "queued" and self.attempt == 0 and self.noted_attempt < self.awaited

    @property
    def wants_callback(self) -> bool:
        """Whether the caller asked for a callback for the state in which this round ended."""
        return self.call.callback is not None and self.state in self.call.callback.on

    def expires_at(self, retention: float) -> float | None:
        """When the row may be deleted: *retention* seconds after it and its callback have ended; None before."""
        if self.finished_at is None or (self.wants_callback and self.callback_ended_at is None):
            return None
        return max(self.finished_at, self.callback_ended_at or 0.0) + retention

    @property
    def version(self) -> str | None:
        """Deployed version that ran the last attempt."""
        return self.attempts[-1].version if self.attempts else None


def new_row(
    *,
    task_id: str,
    queue: str,
    call: Call,
    rule: str | None,
    caller: str,
    origin: str,
    trace: TraceContext,
    now: float,
    schedule_time: float | None = None,
    **others: Any,
) -> Row:
    """The row of a task that is enqueued, adopted or called back for, due at *schedule_time*, or *now* without one."""
    due = now if schedule_time is None else schedule_time
    return Row(
        task_id=task_id,
        queue=queue,
        call=call,
        rule=rule,
        caller=caller,
        origin=origin,
        carrier=dict(trace.carrier),
        trace_id=trace.trace_id,
        span_id=trace.span_id,
        sampled=trace.sampled,
        created_at=now,
        schedule_time=due,
        **{"next_attempt_at": due, **others},
    )
