"""What only a console in the relay's own process knows: its records, its spans, and the embedded queue's verbs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from flask import Blueprint, request

if TYPE_CHECKING:
    from collections.abc import Callable

    from traced_relay.logs.store import RecordStore
    from traced_relay.tracing.span_store import SpanStore
    from traced_relay.tracing.span_tree import FinishedSpan

QUEUE_VERBS = {"pause": "PauseQueue", "resume": "ResumeQueue", "purge": "PurgeQueue"}


@dataclass(frozen=True)
class DevData:
    """
    What `dev` hands in.

    *tell_queue* has the embedded queue do a method of Cloud Tasks, such as `PauseQueue`, to what is named like
    `relay` or `relay/tasks/X`; it raises RelayError if the queue will not. *sample* is a call to begin with.
    """

    records: RecordStore
    spans: SpanStore
    tell_queue: Callable[[str, str], None]
    sample: str

    @property
    def whole_since(self) -> str:
        """Whatever was said or spanned later is still kept."""
        return max(self.records.whole_since, self.spans.whole_since)

    def records_of(self, task_id: str) -> list[dict[str, Any]]:
        """The task's records and those of its callbacks, in the order of their times."""
        kept = self.records.since(0)[1]
        its = [entry for entry in kept if task_id in (entry.get("task_id"), entry.get("callback_of"))]
        return sorted(its, key=itemgetter("time"))

    def spans_of(self, task_id: str) -> list[FinishedSpan]:
        """Every span of every trace that the task's records name."""
        named = {str(entry.get("logging.googleapis.com/trace", "")) for entry in self.records_of(task_id)}
        traces = {name.rpartition("/")[2] for name in named}
        return [span for span in self.spans.spans() if span.trace_id in traces]


def dev_data_routes(dev_data: DevData) -> Blueprint:
    """Records and spans for other programs on this machine."""
    paths = Blueprint("nearby", __name__)

    @paths.get("/tasks/<task_id>/life")
    def life(task_id: str) -> dict[str, Any]:
        spans = [asdict(span) for span in dev_data.spans_of(task_id)]
        return {"records": dev_data.records_of(task_id), "spans": spans, "whole_since": dev_data.whole_since}

    @paths.get("/records")
    def records() -> dict[str, Any]:
        after = request.args.get("after", 0, type=int)
        following, entries = dev_data.records.since(max(after, 0))
        return {"records": entries, "next": following}

    return paths
