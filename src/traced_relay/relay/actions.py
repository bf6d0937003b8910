"""Operator actions on a task: cancel, redrive, resend its callback."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from traced_relay.errors import EnqueueFailed, InvalidCall, Unavailable
from traced_relay.tasks import ids, state_machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from traced_relay.ledger.protocol import Ledger
    from traced_relay.relay.commit import StepApplier
    from traced_relay.runtime.clock import Clock
    from traced_relay.tasks.row import Row
    from traced_relay.tasks.state_machine import Step

MAX_CHANGES = 10

_logger = logging.getLogger(__name__)


class Verb(Protocol):
    """An action of the state machine: the step for *row*, or None if its state does not allow the action."""

    def __call__(self, row: Row, *, actor: str, now: float) -> Step | None: ...


@dataclass(frozen=True, kw_only=True)
class TaskActions:
    """
    Each action takes a row as it was read and returns it as it is afterwards.

    An action raises InvalidCall (409) if the row's state does not allow it. *abort* ends a running call, given the
    worker's id and the attempt's name.
    """

    ledger: Ledger
    step_applier: StepApplier
    clock: Clock
    abort: Callable[[str, str], None]

    def cancel(self, row: Row, actor: str) -> Row:
        """Cancel a waiting or running task; a cancelled one stays as it is."""
        if row.kind == "callback":
            raise InvalidCall("a callback cannot be cancelled, only its call", status=409)
        why_not = "the task has {state}; only a waiting or running task can be cancelled"
        before, after = self._change(row, state_machine.cancel, actor, why_not)
        if before.worker is not None:
            self._abort_call(before.worker, before.attempt_name)
        return after

    def redrive(self, row: Row, actor: str) -> Row:
        """Start a new round of a failed or cancelled task."""
        if row.kind == "callback":
            raise InvalidCall("a callback cannot be redriven; use :resend-callback on its call", status=409)
        why_not = "the task is {state}; only a failed or cancelled task can be redriven"
        return self._change(row, state_machine.redrive, actor, why_not)[1]

    def resend_callback(self, row: Row, actor: str) -> Row:
        """Send the last round's callback again, with the same id and body; returns the call's row."""
        callback = self.ledger.get(ids.callback_id(row.task_id, row.round)) if row.wants_callback else None
        if callback is None:
            raise InvalidCall("the task has no callback that was sent", status=409)
        self._change(callback, state_machine.resend, actor, "the callback is pending: it is being delivered")
        return self.ledger.get(row.task_id) or row

    def _change(self, row: Row, verb: Verb, actor: str, why_not: str) -> tuple[Row, Row]:
        """The row before and after the action; reads it again after another change."""
        for _ in range(MAX_CHANGES):
            step = verb(row, actor=actor, now=self.clock.now())
            if step is None:
                raise InvalidCall(why_not.format(state=row.state), status=409)
            after = self.step_applier.commit(step, row)
            if after is not None:
                self._follow(step, after)
                return row, after
            row = self.ledger.get(row.task_id) or row
        raise Unavailable(f"the task changed {MAX_CHANGES} times during the request")

    def _abort_call(self, worker: str, attempt_name: str) -> None:
        try:
            self.abort(worker, attempt_name)
        except Unavailable as exc:
            _logger.warning("%s runs until its worker next reads its row: %s", attempt_name, exc)

    def _follow(self, step: Step, row: Row) -> None:
        """The change is committed; the sweep creates or deletes the tasks that could not be now."""
        try:
            self.step_applier.follow(step, row)
        except (Unavailable, EnqueueFailed) as exc:
            _logger.warning("the sweep will create or delete the tasks of %s: %s", row.task_id, exc)
