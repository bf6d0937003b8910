"""A step applier of a running relay, on another ledger or another queue's client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from traced_relay.relay.commit import StepApplier

if TYPE_CHECKING:
    from traced_relay.runtime.clock import Clock
    from traced_relay.testing import RunningRelay


def step_applier(relay: RunningRelay, ledger: Any, cloud_tasks: Any, clock: Clock) -> StepApplier:
    return StepApplier(
        ledger=ledger,
        cloud_tasks=cloud_tasks,
        task_log=relay.application._task_log,
        clock=clock,
        callback_builder=relay.application._step_applier.callback_builder,
    )
