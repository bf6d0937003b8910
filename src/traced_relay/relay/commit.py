"""
Applies a step of the state machine, in this order: commit the row, log its events, create the tasks that follow.

A dispatch, an operator's action and the sweep all hand their steps in here.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from threading import Condition
from typing import TYPE_CHECKING

from traced_relay.errors import Unavailable
from traced_relay.tasks.ids import attempt_name, callback_id

if TYPE_CHECKING:
    from traced_relay.cloud_tasks.client import CloudTasks
    from traced_relay.cloud_tasks.delivery import Delivery
    from traced_relay.downstream.sender import Exchange
    from traced_relay.ledger.protocol import Ledger
    from traced_relay.relay.task_log import TaskLog
    from traced_relay.runtime.clock import Clock
    from traced_relay.tasks.callback import CallbackBuilder
    from traced_relay.tasks.row import Row
    from traced_relay.tasks.state_machine import Step

COMMIT_RETRY_DELAY = 0.5

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StepApplier:
    ledger: Ledger
    cloud_tasks: CloudTasks
    task_log: TaskLog
    clock: Clock
    callback_builder: CallbackBuilder

    def commit(
        self,
        step: Step,
        before: Row,
        *,
        delivery: Delivery | None = None,
        exchange: Exchange | None = None,
        patience: float = 0.0,
    ) -> Row | None:
        """
        Write the row of *step* over *before* and log its events; None if another change came first.

        Asks an unavailable ledger once more, and goes on for *patience* seconds, in which no other worker may judge
        the row: the ledger may have written the change although its response was lost.
        """
        row = step.row or before
        if step.row is not None:
            callback = self.callback_builder.build(row, now=self.clock.now()) if step.create_callback else None
            if not self._write(row, callback, patience):
                return None
        for event in step.events:
            self.task_log.log_event(event, row, delivery, exchange)
        return row

    def apply(self, step: Step, before: Row, *, delivery: Delivery | None = None) -> Row | None:
        """Commit *step* and follow it; None, and nothing follows, if another change came first."""
        after = self.commit(step, before, delivery=delivery)
        if after is not None:
            self.follow(step, after)
        return after

    def follow(self, step: Step, row: Row) -> None:
        """Create or delete the tasks that the committed *row* needs; repeat it after Unavailable or EnqueueFailed."""
        if step.create_task:
            self.ensure_task(row)
        if step.delete_task:
            self.cloud_tasks.delete(self.task_name(row))
        if step.create_callback:
            self._create_callback(row)

    def create_task(self, row: Row, *, at: float | None) -> bool:
        """Create the task that *row* awaits, due *at*, None for now, and note it; False if its name is taken."""
        is_new = self.cloud_tasks.create(row, name=self.task_name(row), at=at, headers=row.trace.task_headers())
        if is_new:
            self.note_task(row)
        return is_new

    def ensure_task(self, row: Row) -> bool:
        """Create the task that *row* awaits, or note that it exists; True if it was created."""
        is_new = self.create_task(row, at=row.next_attempt_at)
        if not is_new:
            self.note_task(row)
        return is_new

    def note_task(self, row: Row, number: int | None = None) -> None:
        """
        Note that the task of attempt *number*, or the awaited one, exists. The first note logs task.enqueued.

        If the ledger does not respond, it is logged as well: a duplicate has the same insertId.
        """

        def log_first() -> None:
            if row.noted_attempt == 0:  # a row of an earlier version has no count of notes
                self.task_log.enqueued(row, self.task_name(row, row.first_number))

        try:
            self.ledger.note_soon(row.task_id, row.awaited if number is None else number, log_first)
        except Unavailable as exc:
            _logger.warning("the sweep will note that the task of %s exists: %s", row.task_id, exc)
            log_first()

    def note_first_task(self, row: Row) -> None:
        """Note and log the first task if that has not happened: whoever created it was cut off."""
        if row.noted_attempt == 0:
            self.note_task(row, row.first_number)

    def task_name(self, row: Row, number: int | None = None) -> str:
        """Full name of the task of attempt *number*, or of the one that *row* awaits."""
        number = row.awaited if number is None else number
        if row.adopted_task_name is not None and number == 1:
            return row.adopted_task_name
        return self.cloud_tasks.task_name(row.queue, attempt_name(row.task_id, number))

    def _create_callback(self, row: Row) -> None:
        callback = self.ledger.get(callback_id(row.task_id, row.round))
        if callback is not None and callback.state == "queued" and callback.noted_attempt < callback.awaited:
            self.ensure_task(callback)

    def _write(self, row: Row, callback: Row | None, patience: float) -> bool:
        pause, until, is_unclear = Condition(), self.clock.monotonic() + patience, False
        while True:
            try:
                return self.ledger.replace(row, callback=callback) or (is_unclear and self._is_written(row))
            except Unavailable:
                if is_unclear and self.clock.monotonic() >= until:
                    raise
                is_unclear = True
            with pause:
                self.clock.wait(pause, COMMIT_RETRY_DELAY)

    def _is_written(self, row: Row) -> bool:
        """Whether the ledger holds this very change; another worker's differs in its times."""
        stored = self.ledger.get(row.task_id)
        if stored is None:
            return False
        return stored.changed(noted_attempt=row.noted_attempt, callback_ended_at=row.callback_ended_at) == row
