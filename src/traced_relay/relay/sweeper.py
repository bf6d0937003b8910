"""The sweep: repairs what neither Cloud Tasks nor a redelivery would notice, and logs a summary every minute."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING

from traced_relay.errors import EnqueueFailed
from traced_relay.formats.durations import ms_between
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

BATCH = 200
MAX_SECONDS = 40.0  # the next sweep continues where this one stops
MAX_SECONDS_ON_REQUEST = 5.0

_logger = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class Sweeper:
    """
    One sweep at a time in this process; sweeps of several processes at once are safe.

    A task is overdue *grace* seconds after it was due.
    """

    ledger: Ledger
    cloud_tasks: CloudTasks
    task_log: TaskLog
    clock: Clock
    random: Callable[[], float]
    step_applier: StepApplier
    holder_of: Callable[[Row], Holder]
    grace: float
    _lock: Lock = field(default_factory=Lock, init=False)
    _is_stopping: bool = field(default=False, init=False)
    _resume_after: tuple[float, str] | None = field(default=None, init=False)

    def stop(self) -> None:
        """End a running sweep after its current row."""
        self._is_stopping = True

    def sweep(self) -> None:
        """Sweep once; after Unavailable or EnqueueFailed the next sweep does the rest."""
        with self._lock:
            until = self.clock.monotonic() + MAX_SECONDS
            workers_lost = self._judge_abandoned(until)
            recovered = self._check_waiting(until, self.clock.now() - self.grace)
            while self.ledger.expire(BATCH) == BATCH and self._continues(until):
                pass
            self._log_summary(workers_lost, recovered)

    def check_all(self) -> None:
        """Check the tasks of all waiting rows, due or not: after a purge they no longer exist."""
        with self._lock:
            self._check_waiting(self.clock.monotonic() + MAX_SECONDS_ON_REQUEST, float("inf"))

    def _continues(self, until: float) -> bool:
        return not self._is_stopping and self.clock.monotonic() < until

    def _judge_abandoned(self, until: float) -> int:
        """End the attempts of dead workers before a redelivery does; returns the number of workers lost."""
        lost = 0
        while self._continues(until):
            rows = self.ledger.abandoned(BATCH)
            judged = [self._judge(row) for row in rows if self._continues(until)]
            lost += judged.count(Holder.LOST)
            if len(rows) < BATCH or not any(judged):
                break
        return lost

    def _judge(self, row: Row) -> Holder | None:
        """End the attempt of *row* and return the status of its worker; None if it goes on or *row* has changed."""
        holder = self.holder_of(row)
        if holder is Holder.ALIVE:  # it renewed its lease after the query
            return None
        step = state_machine.lose(row, holder, now=self.clock.now(), random=self.random)
        try:
            return None if self.step_applier.apply(step, row) is None else holder
        except EnqueueFailed as exc:  # the row is committed; a later sweep creates its next task
            _logger.warning("the next task of %s could not be created: %s", row.task_id, exc)
            return holder

    def _check_waiting(self, until: float, before: float) -> int:
        """Check tasks due *before* then, from where the last sweep stopped; returns the number of tasks created."""
        recovered = 0
        while rows := self.ledger.overdue(before, BATCH, after=self._resume_after):
            for row in rows:
                if not self._continues(until):
                    return recovered
                try:
                    recovered += self._check_task(row)
                except EnqueueFailed as exc:  # this queue differs from relay.yaml; others may not
                    _logger.warning("the task of %s could not be created again: %s", row.task_id, exc)
                self._resume_after = (row.next_attempt_at or 0.0, row.task_id)
        self._resume_after = None
        return recovered

    def _check_task(self, row: Row) -> bool:
        """Whether the task that *row* awaits had to be created. A task that existed and is gone was removed."""
        if row.noted_attempt < row.awaited and self.step_applier.ensure_task(row):
            return True
        if not self.cloud_tasks.exists(self.step_applier.task_name(row)):
            self.cloud_tasks.check_queue(row.queue)  # raises if the queue is gone, which removes no task
            whole = self.ledger.get(row.task_id)
            if whole is not None and whole.revision == row.revision:
                self.step_applier.apply(state_machine.remove(whole, now=self.clock.now()), whole)
        return False

    def _log_summary(self, workers_lost: int, recovered: int) -> None:
        now = self.clock.now()
        tally = self.ledger.tally(now - self.grace)
        self.task_log.swept(
            {
                "overdue": tally.overdue,
                "oldest_overdue_ms": _age_ms(tally.oldest_overdue_at, now),
                "running": tally.running,
                "workers_lost": workers_lost,
                "recovered": recovered,
                "callbacks_pending": tally.callbacks_pending,
                "oldest_callback_ms": _age_ms(tally.oldest_callback_at, now),
            }
        )


def _age_ms(since: float | None, now: float) -> int:
    return 0 if since is None else ms_between(since, now)
