"""A queue as v2beta3 shows it: what v2 says of it, and how many tasks it holds and how it gets on with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict, ParseDict

from traced_relay.emulator import messages as m
from traced_relay.emulator.backoff import RETENTION
from traced_relay.emulator.engine import TASK_NAME_WINDOW
from traced_relay.emulator.errors import invalid
from traced_relay.emulator.task_rules import set_time

if TYPE_CHECKING:
    from google.protobuf.field_mask_pb2 import FieldMask

    from traced_relay.emulator.state import QueueState


def shown(queue: QueueState, mask: FieldMask, now: float) -> m.BetaQueue:
    """The fields that the *mask* names; without one all but the statistics, which must be asked for."""
    fields: Any = m.BetaQueue.DESCRIPTOR
    if not mask.IsValidForDescriptor(fields):
        raise invalid("The read mask names a field that a queue does not have.")
    whole = _described(queue)
    if not mask.paths:
        return whole
    _count(queue, whole.stats, now)
    answer = m.BetaQueue()
    mask.MergeMessage(whole, answer)
    return answer


def _described(queue: QueueState) -> m.BetaQueue:
    """What v2 says, in the other message: the names are the same but for one."""
    fields = MessageToDict(queue.message)
    if override := fields.pop("appEngineRoutingOverride", None):
        fields["appEngineHttpQueue"] = {"appEngineRoutingOverride": override}
    ttls = {"taskTtl": f"{RETENTION:.0f}s", "tombstoneTtl": f"{TASK_NAME_WINDOW:.0f}s"}
    return ParseDict({**fields, **ttls, "type": "PUSH"}, m.BetaQueue())


def _count(queue: QueueState, stats: m.QueueStats, now: float) -> None:
    """The documented estimates, exactly; the oldest time is that of the task whose turn it is, or was to be, next."""
    stats.tasks_count = len(queue.tasks)
    stats.concurrent_dispatches_count = queue.in_flight
    stats.executed_last_minute_count = queue.answered.count(now)
    stats.effective_execution_rate = queue.rate.effective(now)
    oldest = queue.waiting.next_time()
    if oldest is not None:
        set_time(stats.oldest_estimated_arrival_time, oldest)
