"""What people do to a task: cancel it, run it again, have its end told again."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from traced_relay.errors import EnqueueFailed, InvalidCall, Unavailable
from traced_relay.relay.commit import RowChanged
from traced_relay.tasks import ids, state_machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from traced_relay.ledger.protocol import Ledger
    from traced_relay.relay.commit import StepApplier
    from traced_relay.runtime.clock import Clock
    from traced_relay.tasks.row import Row
    from traced_relay.tasks.state_machine import Step

CHANGES_MET = 10

_logger = logging.getLogger(__name__)


class Verb(Protocol):
    """One of the machine's: what follows for *row*, or None where its state does not allow it."""

    def __call__(self, row: Row, *, actor: str, now: float) -> Step | None: ...


class TaskActions:
    """
    Each verb takes a row as somebody has just seen it, and gives it back as it is afterwards.

    InvalidCall (409) says that its state does not allow that. *cut* ends a call
    that a worker has out: the worker's id and the attempt's name are the arguments.
    """

    def __init__(self, *, ledger: Ledger, steps: StepApplier, clock: Clock, cut: Callable[[str, str], None]) -> None:
        self._ledger = ledger
        self._steps = steps
        self._clock = clock
        self._abort = cut

    def cancel(self, row: Row, actor: str) -> Row:
        """End what waits or runs; what was cancelled before stays as it is."""
        if row.kind == "callback":
            raise InvalidCall("a callback cannot be cancelled, only its call", status=409)
        why_not = "the task has {state}; only one that waits or runs can be cancelled"
        before, after = self._change(row, state_machine.cancel, actor, why_not)
        if before.worker is not None:
            self._end_call(before.worker, before.attempt_name)
        return after

    def redrive(self, row: Row, actor: str) -> Row:
        """Start a new round of what failed or was cancelled."""
        if row.kind == "callback":
            raise InvalidCall("a callback is sent again by :resend-callback of its call", status=409)
        why_not = "the task is {state}; only a failed or cancelled one is redriven"
        return self._change(row, state_machine.redrive, actor, why_not)[1]

    def resend_callback(self, row: Row, actor: str) -> Row:
        """Tell the end of the last round again, in the same words; gives back the call's row."""
        found = self._ledger.get(ids.callback_id(row.task_id, row.round)) if row.wants_callback else None
        if found is None:
            raise InvalidCall("the task has no callback that was sent", status=409)
        self._change(found, state_machine.resend, actor, "the callback is pending: it is being delivered")
        return self._ledger.get(row.task_id) or row

    def _change(self, row: Row, verb: Verb, actor: str, why_not: str) -> tuple[Row, Row]:
        """The row that was changed and what it became; what came in between is looked at again."""
        for _ in range(CHANGES_MET):
            step = verb(row, actor=actor, now=self._clock.now())
            if step is None:
                raise InvalidCall(why_not.format(state=row.state), status=409)
            try:
                after = self._steps.commit(step, row)
            except RowChanged:
                row = self._ledger.get(row.task_id) or row
                continue
            self._follow(step, after)
            return row, after
        raise Unavailable("the task changes faster than it can be changed")

    def _end_call(self, worker: str, attempt_name: str) -> None:
        try:
            self._abort(worker, attempt_name)
        except Unavailable as exc:
            _logger.warning("%s is cut when its worker next looks by itself: %s", attempt_name, exc)

    def _follow(self, step: Step, row: Row) -> None:
        """What was committed holds; tasks that could not be made or taken away now are seen to by the sweep."""
        try:
            self._steps.follow(step, row)
        except (Unavailable, EnqueueFailed) as exc:
            _logger.warning("the tasks of %s are left to the sweep: %s", row.task_id, exc)
