"""The ledger's row: the truth about one task, and how it is written down. Times are seconds since the epoch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from traced_relay.tasks.call import Call
from traced_relay.tasks.states import ENDED, State

ATTEMPTS_KEPT = 100


class Stored(BaseModel):
    """What was written by one version is read by the one before it, too: names it does not know are left aside."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class Attempt(Stored):
    """One exchange with the downstream, from claim to verdict."""

    attempt: int
    round: int
    task_name: str
    span_id: str
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


class Response(Stored):
    """What the downstream answered: bytes, as they came, as many as are kept."""

    status_code: int
    headers: dict[str, str]
    body: bytes = b""
    truncated: bool = False


class Row(Stored):
    """
    One task: a call, or the callback that tells of a call's end.

    *attempt* is the last one started, *awaited* the one whose task may start
    next (or has started last); *started* is how many this round has had,
    *interruptions* how many of those count against no limit. *carrier* holds
    the W3C headers of the first `send`, *span_id* and *sampled* say the same in
    parts; *origin* is what links start with. *schedule_time* is when the round
    was to start: a redrive moves it. Of a callback, *callback_of* and
    *callback_round* name the end it tells of, and *sent_at* is when that
    `send` was.

    Two values change beside the row, in no conflict with it: *noted_attempt* is
    the last attempt whose task Cloud Tasks is known to have, *callback_ended_at*
    when the callback of this round was over. *revision* grows with every other
    change.
    """

    task_id: str
    kind: Literal["call", "callback"] = "call"
    queue: str
    call: Call
    rule: str | None
    caller: str
    fingerprint: str = ""
    origin: str = ""
    adopted_task_name: str | None = None
    callback_of: str | None = None
    callback_round: int | None = None
    sent_at: float | None = None
    carrier: dict[str, str]
    trace_id: str
    span_id: str
    sampled: bool
    state: State = "queued"
    round: int = 1
    created_at: float
    schedule_time: float
    next_attempt_at: float | None
    finished_at: float | None = None
    first_started_at: float | None = None
    cancel_requested_at: float | None = None
    actor: str | None = None
    attempt: int = 0
    awaited: int = 1
    started: int = 0
    interruptions: int = 0
    worker: str | None = None
    noted_attempt: int = 0
    callback_ended_at: float | None = None
    reason: str | None = None
    blame: str | None = None
    attempts: tuple[Attempt, ...] = ()
    response: Response | None = None
    revision: int = 1

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    @property
    def retry_count(self) -> int:
        """How many attempts of this round failed before the last one started."""
        return max(0, self.started - 1)

    @property
    def due_at(self) -> float:
        """When this round was due; an attempt that a person starts before makes it due then."""
        times = (self.schedule_time, self.first_started_at)
        return max(self.created_at, min(time for time in times if time is not None))

    @property
    def total_ms(self) -> int | None:
        """How long this round took, from when it was due; None before its end."""
        return None if self.finished_at is None else max(0, round((self.finished_at - self.due_at) * 1000))

    def trace_age(self, now: float) -> float:
        """Seconds since the `send` that everything about this task hangs under."""
        return now - (self.created_at if self.sent_at is None else self.sent_at)

    @property
    def attempt_name(self) -> str:
        """The last attempt started, by a name that no other attempt has."""
        return f"{self.task_id}-{self.attempt}"

    @property
    def wants_callback(self) -> bool:
        """Whether somebody is to be told of the end that this round came to."""
        return self.call.callback is not None and self.state in self.call.callback.on

    def expires_at(self, retention: float) -> float | None:
        """When it may be forgotten, *retention* seconds after it and its callback have ended; None before."""
        if self.finished_at is None or (self.wants_callback and self.callback_ended_at is None):
            return None
        return max(self.finished_at, self.callback_ended_at or 0.0) + retention

    @property
    def version(self) -> str | None:
        """The deployed version that made the last attempt."""
        return self.attempts[-1].version if self.attempts else None
