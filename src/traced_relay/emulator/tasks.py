"""What the engine knows of one task beyond the message it was created with, and how a caller is shown it."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING, Any

from traced_relay.emulator import headers, resource_names
from traced_relay.emulator import messages as m
from traced_relay.emulator.attempts import Answer, Dispatch, End
from traced_relay.emulator.backoff import seconds
from traced_relay.emulator.task_rules import set_time

if TYPE_CHECKING:
    from traced_relay.emulator.state import QueueState

_GATEWAY_TIMEOUT = 504

# google.rpc.Code for the worker's status codes; all others are UNKNOWN.
_CODES = {
    400: (3, "INVALID_ARGUMENT"),
    401: (16, "UNAUTHENTICATED"),
    403: (7, "PERMISSION_DENIED"),
    404: (5, "NOT_FOUND"),
    409: (10, "ABORTED"),
    429: (8, "RESOURCE_EXHAUSTED"),
    499: (1, "CANCELLED"),
    500: (13, "INTERNAL"),
    501: (12, "UNIMPLEMENTED"),
    503: (14, "UNAVAILABLE"),
    504: (4, "DEADLINE_EXCEEDED"),
}


@dataclass(slots=True)
class Progress:
    """What changes while a task lives; kept on disk after each failed attempt."""

    due_at: float
    dispatch_count: int = 0
    response_count: int = 0
    execution_count: int = 0
    retry_count: int = 0
    first_dispatched_at: float | None = None
    last_scheduled_at: float | None = None
    last_dispatched_at: float | None = None
    last_ended_at: float | None = None
    previous_response: int | None = None
    retry_reason: str = ""

    def snapshot(self) -> tuple[Any, ...]:
        return astuple(self)


@dataclass(slots=True, eq=False)
class TaskState:
    """One task in its queue. The *message* is as it was stored and never changes."""

    queue: QueueState
    serial: int
    message: m.Task
    is_named: bool
    progress: Progress
    running: int = 0
    is_gone: bool = False
    task_id: str = field(init=False)
    family: headers.Family = field(init=False)

    def __post_init__(self) -> None:
        self.task_id = resource_names.short(self.message.name)
        self.family = headers.HTTP if self.message.HasField("http_request") else headers.APP_ENGINE

    def dispatch(self, token: int, now: float, *, run_at: float | None = None) -> Dispatch:
        """Start an attempt; *run_at* if it is RunTask that starts it."""
        progress = self.progress
        eta = progress.due_at if run_at is None else min(progress.due_at, run_at)
        self.running += 1
        progress.dispatch_count += 1
        if progress.first_dispatched_at is None:
            progress.first_dispatched_at = now
        progress.last_scheduled_at, progress.last_dispatched_at, progress.last_ended_at = eta, now, None
        return Dispatch(
            token=token,
            task=self.message,
            family=self.family,
            queue_id=self.queue.queue_id,
            task_id=self.task_id,
            retry_count=progress.retry_count,
            execution_count=progress.execution_count,
            eta=eta,
            previous_response=progress.previous_response,
            retry_reason=progress.retry_reason,
            deadline=seconds(self.message.dispatch_deadline),
            routing=self.queue.routing,
            run_at=run_at,
        )

    def failed(self, answer: Answer, now: float) -> None:
        """Count an attempt that did not succeed, as each family counts."""
        progress, is_http = self.progress, self.family is headers.HTTP
        progress.retry_count += 1
        progress.last_ended_at = now
        if answer.end is End.ANSWERED:
            progress.response_count += 1
            # Production leaves 5xx out of an HTTP task's count, and nothing out of an App Engine task's.
            progress.execution_count += 1 if answer.status < 500 or not is_http else 0
            progress.previous_response, progress.retry_reason = answer.status, self.family.refused
        else:
            timed_out = answer.end is End.DEADLINE and is_http
            progress.previous_response = _GATEWAY_TIMEOUT if timed_out else 0
            progress.retry_reason = self.family.unanswered

    def shown(self, view: int) -> m.Task:
        """The task as callers see it; BASIC leaves out the body and nothing else."""
        progress, task = self.progress, m.Task()
        task.CopyFrom(self.message)
        task.view = m.FULL if view == m.FULL else m.BASIC
        if task.view == m.BASIC:
            (task.http_request if self.family is headers.HTTP else task.app_engine_http_request).ClearField("body")
        set_time(task.schedule_time, progress.due_at)
        if progress.first_dispatched_at is not None:
            task.dispatch_count, task.response_count = progress.dispatch_count, progress.response_count
            set_time(task.first_attempt.dispatch_time, progress.first_dispatched_at)
            self._show_last_attempt(task.last_attempt)
        return task

    def _show_last_attempt(self, attempt: m.Attempt) -> None:
        progress = self.progress
        for stamp, time in (
            (attempt.schedule_time, progress.last_scheduled_at),
            (attempt.dispatch_time, progress.last_dispatched_at),
            (attempt.response_time, progress.last_ended_at),
        ):
            if time is not None:
                set_time(stamp, time)
        if progress.last_ended_at is not None:
            status = progress.previous_response or 0
            code, name = _CODES.get(status, (2, "UNKNOWN"))
            attempt.response_status.code = code
            attempt.response_status.message = f"{name}({code}): HTTP status code {status}"
