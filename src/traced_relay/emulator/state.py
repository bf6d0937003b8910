"""The state of one queue and of its tasks; only the engine changes it."""

from __future__ import annotations

from dataclasses import dataclass, field

from traced_relay.emulator import attempts, headers, resource_names
from traced_relay.emulator import messages as m
from traced_relay.emulator.attempts import Dispatch, End, Outcome
from traced_relay.emulator.queue_rules import completed
from traced_relay.emulator.rates import LastMinute, Rate
from traced_relay.emulator.task_rules import set_time
from traced_relay.emulator.task_table import TaskTable
from traced_relay.runtime.timer_queue import TimerQueue

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
    """The part of a task that changes; stored after each failed attempt."""

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


@dataclass(slots=True, eq=False)
class TaskState:
    """One task in its queue. *message* never changes."""

    queue: QueueState
    serial: int
    message: m.Task
    is_named: bool
    progress: Progress
    running: int = 0
    task_id: str = field(init=False)
    family: attempts.Family = field(init=False)

    def __post_init__(self) -> None:
        self.task_id = resource_names.short(self.message.name)
        self.family = attempts.HTTP if self.message.HasField("http_request") else attempts.APP_ENGINE

    @property
    def is_gone(self) -> bool:
        return self.queue.tasks.get(self.task_id) is not self

    def dispatch(self, now: float, *, run_at: float | None = None) -> Dispatch:
        """Start an attempt; *run_at* is the time of the RunTask that starts it."""
        progress = self.progress
        eta = progress.due_at if run_at is None else min(progress.due_at, run_at)
        self.running += 1
        progress.dispatch_count += 1
        if progress.first_dispatched_at is None:
            progress.first_dispatched_at = now
        progress.last_scheduled_at, progress.last_dispatched_at, progress.last_ended_at = eta, now, None
        return Dispatch(self.message, headers.of_attempt(self, eta), self.queue.routing, run_at)

    def count_failure(self, outcome: Outcome, now: float) -> None:
        """Count a failed attempt by the rules of the task's family."""
        progress, is_http = self.progress, self.family is attempts.HTTP
        progress.retry_count += 1
        progress.last_ended_at = now
        if outcome.end is End.RESPONDED:
            progress.response_count += 1
            # Production does not count 5xx for an HTTP task, and counts every response for an App Engine task.
            progress.execution_count += 1 if outcome.status < 500 or not is_http else 0
            progress.previous_response, progress.retry_reason = outcome.status, self.family.error_reason
        else:
            timed_out = outcome.end is End.DEADLINE and is_http
            progress.previous_response = _GATEWAY_TIMEOUT if timed_out else 0
            progress.retry_reason = self.family.no_response_reason

    def to_message(self, view: int) -> m.Task:
        """The task for callers; the BASIC view omits only the body."""
        task = m.Task()
        self.fill(task, view)
        return task

    def fill(self, task: m.Task, view: int) -> None:
        """Write the task for callers into an empty message."""
        progress = self.progress
        task.CopyFrom(self.message)
        task.view = m.FULL if view == m.FULL else m.BASIC
        if task.view == m.BASIC:
            (task.http_request if self.family is attempts.HTTP else task.app_engine_http_request).ClearField("body")
        set_time(task.schedule_time, progress.due_at)
        if progress.first_dispatched_at is not None:
            task.dispatch_count, task.response_count = progress.dispatch_count, progress.response_count
            set_time(task.first_attempt.dispatch_time, progress.first_dispatched_at)
            self._fill_last_attempt(task.last_attempt)

    def _fill_last_attempt(self, attempt: m.Attempt) -> None:
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


class QueueState:
    """*tasks* holds all tasks, *waiting* those that are not in flight, by schedule time."""

    def __init__(self, message: m.Queue) -> None:
        self.empty()
        self.name: str = message.name
        self.queue_id = resource_names.short(message.name)
        self.in_flight = 0
        self.responses = LastMinute()
        self.rate = Rate(message.rate_limits.max_dispatches_per_second, message.rate_limits.max_burst_size)
        self.configure(message)

    def empty(self) -> None:
        """Start with new tables, which takes no longer for many tasks."""
        self.tasks = TaskTable()
        self.waiting: TimerQueue[TaskState] = TimerQueue()

    def configure(self, message: m.Queue) -> None:
        self.message = message
        limits = message.rate_limits
        self.rate.per_second, self.rate.burst = limits.max_dispatches_per_second, limits.max_burst_size
        self.is_paused = message.state != m.RUNNING
        self._most_concurrent: int = limits.max_concurrent_dispatches
        self.routing: m.AppEngineRouting | None = None
        if message.HasField("app_engine_routing_override"):
            self.routing = message.app_engine_routing_override

    def retry_config_for(self, task: TaskState) -> m.RetryConfig:
        defaults: m.RetryConfig = self.message.retry_config
        return completed(task.message.retry_config, defaults) if task.message.HasField("retry_config") else defaults

    def pop_due(self, now: float) -> TaskState | None:
        """The next task that may be dispatched now, or None."""
        first = self.waiting.next_time()
        if first is None or first > now or not self._may_dispatch() or not self.rate.take(now):
            return None
        return self.waiting.pop_due(now)

    def next_wake_time(self, now: float) -> float | None:
        """When to call `pop_due` again, unless something else happens before."""
        first = self.waiting.next_time()
        if first is None or not self._may_dispatch():
            return None
        return max(first, self.rate.ready_at(now))

    def has_due(self, now: float) -> bool:
        first = self.waiting.next_time()
        return not self.is_paused and first is not None and first <= now

    def _may_dispatch(self) -> bool:
        return not self.is_paused and self.in_flight < self._most_concurrent


@dataclass(slots=True, eq=False)
class Purge:
    """
    Tasks that are gone for callers: the engine removes them from memory and disk in steps.

    The names that callers chose stay reserved until *until*; None reserves none.
    """

    queue: QueueState
    serial: int  # of the last task that is gone
    until: float | None
    tasks: TaskTable
    waiting: TimerQueue[TaskState]

    def reserves(self, queue: QueueState, task_id: str, now: float) -> bool:
        if queue is not self.queue or self.until is None or self.until <= now:
            return False
        task = self.tasks.get(task_id)
        return task is not None and task.is_named
