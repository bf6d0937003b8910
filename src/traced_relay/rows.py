"""The ledger's row: the truth about one task, and how it is written down. Times are seconds since the epoch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from traced_relay.calls import Call

State = Literal["queued", "running", "waiting", "succeeded", "failed", "cancelled"]
STATES: tuple[State, ...] = ("queued", "running", "waiting", "succeeded", "failed", "cancelled")
ENDED: frozenset[State] = frozenset({"succeeded", "failed", "cancelled"})
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
    One task.

    *attempt* is the last one started, *failures* how many of this round failed,
    *interruptions* how many of those count against no limit. *carrier*
    holds the W3C headers of the task's first `send`, *span_id* and *sampled*
    say the same in parts. *noted_attempt* is the last attempt whose task Cloud
    Tasks is known to have; *revision* grows with every change but that note.
    """

    task_id: str
    kind: Literal["call", "callback"] = "call"
    queue: str
    call: Call
    rule: str | None
    caller: str
    fingerprint: str = ""
    adopted_task_name: str | None = None
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
    attempt: int = 0
    failures: int = 0
    interruptions: int = 0
    worker: str | None = None
    noted_attempt: int = 0
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
        last_failed = bool(self.attempts) and self.attempts[-1].reason is not None
        return self.failures - last_failed

    @property
    def attempt_count(self) -> int:
        """How many attempts this round has had."""
        return sum(attempt.round == self.round for attempt in self.attempts[-1:]) and self.retry_count + 1

    @property
    def version(self) -> str | None:
        """The deployed version that made the last attempt."""
        return self.attempts[-1].version if self.attempts else None
