"""Data that only a console inside `dev` has: records, spans and control of the embedded queue."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from flask import Blueprint, request

from traced_relay.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from traced_relay.logs.store import RecordStore
    from traced_relay.tracing.span_store import SpanStore
    from traced_relay.tracing.span_tree import FinishedSpan

QUEUE_ACTIONS = {"pause": "PauseQueue", "resume": "ResumeQueue", "purge": "PurgeQueue"}


@dataclass(frozen=True)
class DevData:
    """
    The parts of `dev` that the console uses.

    *call_queue* calls a method of Cloud Tasks, such as `PauseQueue`, on a queue `relay` or a task `relay/tasks/X`; it
    raises RelayError if the queue refuses. *sample* is a command that enqueues a first call.
    """

    records: RecordStore
    spans: SpanStore
    call_queue: Callable[[str, str], None]
    sample: str

    @property
    def whole_since(self) -> str:
        """Time since which all records and spans are present."""
        return max(self.records.whole_since, self.spans.whole_since)

    def records_and_spans(self, task_id: str) -> tuple[list[dict[str, Any]], list[FinishedSpan]]:
        """Records of the task and its callbacks, sorted by time, and all spans of the traces that they name."""
        entries = [e for e in self.records.records() if task_id in (e.get("task_id"), e.get("callback_of"))]
        traces = {str(entry.get("logging.googleapis.com/trace", "")).rpartition("/")[2] for entry in entries}
        spans = [span for span in self.spans.spans() if span.trace_id in traces]
        return sorted(entries, key=itemgetter("time")), spans


def dev_data_routes(dev_data: DevData) -> Blueprint:
    """Records and spans as JSON, for other programs on this machine, and the actions on a queue."""
    routes = Blueprint("dev_data", __name__)

    @routes.get("/tasks/<task_id>/life")
    def life(task_id: str) -> dict[str, Any]:
        records, spans = dev_data.records_and_spans(task_id)
        return {"records": records, "spans": [asdict(span) for span in spans], "whole_since": dev_data.whole_since}

    @routes.get("/records")
    def records() -> dict[str, Any]:
        after = request.args.get("after", 0, type=int)
        next_record, entries = dev_data.records.since(max(after, 0))
        return {"records": entries, "next": next_record}

    @routes.post("/queues/<queue>/<action>")
    def act_on_queue(queue: str, action: str) -> dict[str, str]:
        if action not in QUEUE_ACTIONS:
            raise NotFound(f"unknown action {action[:40]}")
        dev_data.call_queue(QUEUE_ACTIONS[action], queue)
        return {}

    return routes
