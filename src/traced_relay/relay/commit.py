"""
Does what a step of the machine asks for, in its order: commit, say, then the tasks that follow.

Whoever decides about a row hands the step here: a dispatch, a person, the sweep.
"""

from __future__ import annotations

from threading import Condition
from typing import TYPE_CHECKING

from traced_relay.errors import Unavailable
from traced_relay.tasks.ids import callback_id
from traced_relay.tracing import propagation

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

COMMIT_AGAIN_AFTER = 0.5


class RowChanged(Exception):
    """Somebody else changed the row first; what it is now decides."""


class StepApplier:
    def __init__(
        self,
        *,
        ledger: Ledger,
        cloud_tasks: CloudTasks,
        task_log: TaskLog,
        clock: Clock,
        callback_builder: CallbackBuilder,
    ) -> None:
        self._ledger = ledger
        self._cloud_tasks = cloud_tasks
        self._task_log = task_log
        self._clock = clock
        self._callback_builder = callback_builder

    def commit(
        self,
        step: Step,
        before: Row,
        *,
        delivery: Delivery | None = None,
        exchange: Exchange | None = None,
        patience: float = 0.0,
    ) -> Row:
        """
        Write what the step makes of *before*, and say it; Changed if another change came first.

        A ledger that is away is asked once more, and for *patience* seconds on,
        in which nobody else may judge the row: it may have written the change,
        and only its answer was lost.
        """
        row = step.row or before
        if step.row is not None:
            callback = self._callback_builder.build(row, now=self._clock.now()) if step.create_callback else None
            self._write(row, callback, patience)
        for said in step.events:
            self._task_log.step(said, row, delivery, exchange)
        return row

    def follow(self, step: Step, row: Row) -> None:
        """Make the tasks that the committed *row* asks for; Unavailable and EnqueueFailed leave that to be repeated."""
        if step.create_task:
            self.create(row)
        if step.delete_task:
            self._cloud_tasks.delete(self.task_name(row))
        if step.create_callback:
            self._create_callback(row)

    def create(self, row: Row) -> bool:
        """Create the task that *row* awaits, and note that it is there; False if it was, or had been, there before."""
        headers = propagation.task_headers(propagation.parent_context(row.carrier))
        is_new = self._cloud_tasks.create(row, at=row.next_attempt_at, headers=headers)
        self._ledger.note(row.task_id, row.awaited)
        return is_new

    def task_name(self, row: Row) -> str:
        """The full name of the task that *row* awaits."""
        if row.adopted_task_name is not None and row.awaited == 1:
            return row.adopted_task_name
        return self._cloud_tasks.task_name(row.queue, f"{row.task_id}-{row.awaited}")

    def _create_callback(self, row: Row) -> None:
        callback = self._ledger.get(callback_id(row.task_id, row.round))
        if callback is not None and callback.state == "queued" and callback.noted_attempt < callback.awaited:
            self.create(callback)
            self._task_log.enqueued(callback, self.task_name(callback))

    def _write(self, row: Row, callback: Row | None, patience: float) -> None:
        pause, until, is_unclear = Condition(), self._clock.monotonic() + patience, False
        while True:
            try:
                if self._ledger.replace(row, callback=callback) or (is_unclear and self._is_written(row)):
                    return
            except Unavailable:
                if is_unclear and self._clock.monotonic() >= until:
                    raise
                is_unclear = True
            else:
                raise RowChanged
            with pause:
                self._clock.wait(pause, COMMIT_AGAIN_AFTER)

    def _is_written(self, row: Row) -> bool:
        """Whether a ledger that gave no clear answer had done what it was asked; others leave other times in a row."""
        stored = self._ledger.get(row.task_id)
        beside = {"noted_attempt": row.noted_attempt, "callback_ended_at": row.callback_ended_at}
        return stored is not None and stored.model_copy(update=beside) == row
