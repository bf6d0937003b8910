"""The callback for a call's end: a row of the same state machine, whose call sends the report. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from traced_relay.formats import strict_json
from traced_relay.formats.durations import format_time
from traced_relay.tasks import status_document
from traced_relay.tasks.call import Call, RetryPolicy
from traced_relay.tasks.ids import callback_id
from traced_relay.tasks.retry import CALLBACK_WAITS
from traced_relay.tasks.row import new_row
from traced_relay.tasks.status_document import Context

if TYPE_CHECKING:
    from collections.abc import Callable

    from traced_relay.tasks.row import Row
    from traced_relay.tasks.status_document import Links

TIMEOUT = 30.0
MOST_ATTEMPTS = 2 + len(CALLBACK_WAITS)  # the first, one after the first wait, and one after each of the others
_SCHEDULE = RetryPolicy.model_validate({"max_attempts": MOST_ATTEMPTS, "max_backoff": "24h"})
MAX_BYTES = 20_000  # Standard Webhooks recommends payloads below 20 kB


@dataclass(frozen=True)
class CallbackBuilder:
    """Builds callbacks for *queue*; the first retry follows after *first_wait* seconds."""

    queue: str
    first_wait: float
    links: Callable[[str], Links]

    def build(self, row: Row, *, now: float) -> Row | None:
        """The row of the callback that reports the end of *row*; None if its call asks for none."""
        if row.call.callback is None:
            return None
        return new_row(
            task_id=callback_id(row.task_id, row.round),
            kind="callback",
            queue=self.queue,
            call=Call(
                url=row.call.callback.url,
                headers={"content-type": "application/json"},
                body=self._report(row, now),
                timeout=TIMEOUT,
                retry=_SCHEDULE.model_copy(update={"min_backoff": self.first_wait}),
                idempotent=True,
            ),
            rule=None,
            caller=row.caller,
            origin=row.origin,
            callback_of=row.task_id,
            callback_round=row.round,
            sent_at=row.created_at,
            trace=row.trace,
            now=now,
        )

    def _report(self, row: Row, now: float) -> bytes:
        """The body of the callback, the same in every attempt; without the response's body if longer than MAX_BYTES."""
        status = status_document.status(row, Context(links=self.links(row.origin), now=now, retention=0.0))
        data: dict[str, Any] = {name: value for name, value in status.items() if name not in ("attempts", "callback")}
        report = {"type": f"task.{row.state}", "timestamp": format_time(row.finished_at or now), "data": data}
        content = strict_json.dumps(report)
        if len(content) <= MAX_BYTES or row.response is None:
            return content
        response = {"status_code": row.response.status_code, "headers": row.response.headers, "truncated": True}
        return strict_json.dumps(report | {"data": data | {"response": response}})
