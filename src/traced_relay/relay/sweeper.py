"""Sees to what neither the queue nor a redelivery will notice, and says every minute how things stand."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

from traced_relay.errors import EnqueueFailed
from traced_relay.relay.commit import RowChanged
from traced_relay.tasks import state_machine
from traced_relay.tasks.state_machine import Holder

if TYPE_CHECKING:
    from collections.abc import Callable

    from traced_relay.cloud_tasks.client import CloudTasks
    from traced_relay.ledger.protocol import Ledger
    from traced_relay.relay.commit import StepApplier
    from traced_relay.relay.task_log import TaskLog
    from traced_relay.runtime.clock import Clock
    from traced_relay.tasks.row import Row
    from traced_relay.tasks.state_machine import Step

AT_ONCE = 200
LONGEST = 40.0  # seconds; the rest is for the next sweep, which goes on from there
LONGEST_ASKED_FOR = 5.0  # somebody waits for it

_logger = logging.getLogger(__name__)


@dataclass
class _Found:
    workers_lost: int = 0
    recovered: int = 0


class Sweeper:
    """
    One sweep at a time; two processes that sweep together do each other no harm.

    A task counts as overdue *grace* seconds after it was due.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        cloud_tasks: CloudTasks,
        task_log: TaskLog,
        clock: Clock,
        random: Callable[[], float],
        steps: StepApplier,
        holder_of: Callable[[Row], Holder],
        grace: float,
    ) -> None:
        self._ledger = ledger
        self._cloud_tasks = cloud_tasks
        self._task_log = task_log
        self._clock = clock
        self._random = random
        self._steps = steps
        self._holder_of = holder_of
        self._grace = grace
        self._lock = Lock()
        self._is_stopping = False
        self._reached: tuple[float, str] | None = None

    def stop(self) -> None:
        """Let a sweep that is being made end with the row it is at."""
        self._is_stopping = True

    def sweep(self) -> None:
        """Unavailable and EnqueueFailed leave what is left to the next one."""
        with self._lock:
            until, found = self._clock.monotonic() + LONGEST, _Found()
            self._judge_abandoned(found, until)
            self._look_at_waiting(found, until, self._clock.now() - self._grace)
            while self._ledger.expire(AT_ONCE) == AT_ONCE and self._goes_on(until):
                pass
            self._say(found)

    def check_all(self) -> None:
        """Look for the tasks of all rows that wait, due or not: those of a queue that was purged are gone."""
        with self._lock:
            self._look_at_waiting(_Found(), self._clock.monotonic() + LONGEST_ASKED_FOR, float("inf"))

    def _goes_on(self, until: float) -> bool:
        return not self._is_stopping and self._clock.monotonic() < until

    def _judge_abandoned(self, found: _Found, until: float) -> None:
        """End the attempts of workers that are gone, as the redelivery would that may be long in coming."""
        while self._goes_on(until):
            rows = self._ledger.abandoned(AT_ONCE)
            judged = [self._goes_on(until) and self._judge(row, found) for row in rows]
            if len(rows) < AT_ONCE or not any(judged):
                return

    def _judge(self, row: Row, found: _Found) -> bool:
        holder = self._holder_of(row)
        if holder is Holder.ALIVE:  # thawed, or back with the ledger, since it was looked for
            return False
        step = state_machine.lose(row, holder, now=self._clock.now(), random=self._random)
        try:
            is_judged = self._apply(step, row)
        except EnqueueFailed as exc:  # judged it is; its next task is for a sweep that finds the queue
            _logger.warning("the next task of %s could not be made: %s", row.task_id, exc)
            is_judged = True
        found.workers_lost += is_judged and holder is Holder.LOST
        return is_judged

    def _look_at_waiting(self, found: _Found, until: float, before: float) -> None:
        """Look for the tasks of rows that were due *before* then, from where the last sweep came to."""
        while rows := self._ledger.overdue(before, AT_ONCE, after=self._reached):
            for row in rows:
                if not self._goes_on(until):
                    return
                try:
                    found.recovered += self._look_at(row)
                except EnqueueFailed as exc:  # this queue is not as relay.yaml says; others may be
                    _logger.warning("the task of %s could not be made again: %s", row.task_id, exc)
                self._reached = (row.next_attempt_at or 0.0, row.task_id)
        self._reached = None

    def _look_at(self, row: Row) -> bool:
        """Whether the task that the *row* awaits had to be made again. One that was there and is gone was removed."""
        name = self._steps.task_name(row)
        if row.noted_attempt < row.awaited and self._steps.create(row):
            if row.attempt == 0:
                self._task_log.enqueued(row, name)
            return True
        if not self._cloud_tasks.exists(name):
            self._cloud_tasks.check_queue(row.queue)  # a queue that is not there has lost nobody's task
            whole = self._ledger.get(row.task_id)
            if whole is not None and whole.revision == row.revision:
                self._apply(state_machine.remove(whole, now=self._clock.now()), whole)
        return False

    def _apply(self, step: Step, row: Row) -> bool:
        """Whether the step was taken; what has changed meanwhile is somebody's concern already."""
        try:
            after = self._steps.commit(step, row)
        except RowChanged:
            return False
        self._steps.follow(step, after)
        return True

    def _say(self, found: _Found) -> None:
        now = self._clock.now()
        tally = self._ledger.tally(now - self._grace)
        self._task_log.swept(
            {
                "overdue": tally.overdue,
                "oldest_overdue_ms": _age_ms(tally.oldest_overdue_at, now),
                "running": tally.running,
                "workers_lost": found.workers_lost,
                "recovered": found.recovered,
                "callbacks_pending": tally.callbacks_pending,
                "oldest_callback_ms": _age_ms(tally.oldest_callback_at, now),
            }
        )


def _age_ms(since: float | None, now: float) -> int:
    return 0 if since is None else max(0, round((now - since) * 1000))
