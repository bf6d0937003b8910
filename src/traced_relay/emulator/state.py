"""One queue as the engine knows it: its configuration, its tasks, and what may leave it now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from traced_relay.emulator import messages as m
from traced_relay.emulator import resource_names
from traced_relay.emulator.backoff import RetryPolicy
from traced_relay.emulator.queue_rules import completed
from traced_relay.emulator.rates import LastMinute, Rate
from traced_relay.runtime.timer_queue import Agenda

if TYPE_CHECKING:
    from traced_relay.emulator.tasks import TaskState


class QueueState:
    """Tasks wait in the order of their schedule times; those in flight stay in *tasks*, but do not wait."""

    def __init__(self, message: m.Queue) -> None:
        self.name: str = message.name
        self.queue_id = resource_names.short(message.name)
        self.tasks: dict[str, TaskState] = {}
        self.waiting: Agenda[TaskState] = Agenda()
        self.in_flight = 0
        self.answered = LastMinute()
        self.is_gone = False
        limits = message.rate_limits
        self.rate = Rate(limits.max_dispatches_per_second, limits.max_burst_size)
        self.configure(message)

    def configure(self, message: m.Queue) -> None:
        """Take on a new configuration; the message itself is never changed."""
        self.message = message
        self.rate.change(message.rate_limits.max_dispatches_per_second, message.rate_limits.max_burst_size)
        self.is_paused = message.state != m.RUNNING
        self._policy = RetryPolicy.of(message.retry_config)
        self._most_concurrent: int = message.rate_limits.max_concurrent_dispatches
        self.routing: m.AppEngineRouting | None = None
        if message.HasField("app_engine_routing_override"):
            self.routing = message.app_engine_routing_override

    def policy_for(self, task: TaskState) -> RetryPolicy:
        if not task.message.HasField("retry_config"):
            return self._policy
        return RetryPolicy.of(completed(task.message.retry_config, self.message.retry_config))

    def take(self, now: float) -> TaskState | None:
        """The next task that may leave, if any may."""
        first = self.waiting.next_time()
        if first is None or first > now or not self._lets_go() or not self.rate.take(now):
            return None
        return self.waiting.pop_due(now)

    def wakes_at(self, now: float) -> float | None:
        """When `take` may have something again, if nothing happens before."""
        first = self.waiting.next_time()
        if first is None or not self._lets_go():
            return None
        return max(first, self.rate.ready_at(now))

    def has_due(self, now: float) -> bool:
        first = self.waiting.next_time()
        return not self.is_paused and first is not None and first <= now

    def _lets_go(self) -> bool:
        return not self.is_paused and self.in_flight < self._most_concurrent
