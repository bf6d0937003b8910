"""The callback of a call's end: a row of the same machine, whose call is the report. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from traced_relay.formats import strict_json
from traced_relay.formats.durations import format_time
from traced_relay.tasks import status_document
from traced_relay.tasks.call import Call, RetryPolicy
from traced_relay.tasks.ids import callback_id
from traced_relay.tasks.row import Row

if TYPE_CHECKING:
    from collections.abc import Callable

    from traced_relay.tasks.status_document import Links

TIMEOUT = 30.0
MOST_ATTEMPTS = 10
_SCHEDULE = RetryPolicy.model_validate({"max_attempts": MOST_ATTEMPTS, "max_backoff": "24h"})
LARGEST = 20_000  # bytes; Standard Webhooks: receivers expect small ones


@dataclass(frozen=True)
class CallbackBuilder:
    """Writes reports; they go to *queue*, and are tried again *first_wait* seconds after the first time."""

    queue: str
    first_wait: float
    links: Callable[[str], Links]

    def build(self, row: Row, *, now: float) -> Row | None:
        """The row of the callback that tells how *row* has ended; None if nobody wants to know."""
        if row.call.callback is None:
            return None
        return Row(
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
            carrier=row.carrier,
            trace_id=row.trace_id,
            span_id=row.span_id,
            sampled=row.sampled,
            created_at=now,
            schedule_time=now,
            next_attempt_at=now,
        )

    def _report(self, row: Row, now: float) -> bytes:
        """What the receiver gets, byte for byte in every attempt; a long answer is left to be fetched."""
        status = status_document.status(row, self.links(row.origin), now=now, retention=0.0)
        told: dict[str, Any] = {name: value for name, value in status.items() if name not in ("attempts", "callback")}
        report = {"type": f"task.{row.state}", "timestamp": format_time(row.finished_at or now), "data": told}
        content = strict_json.dumps(report)
        if len(content) <= LARGEST or row.response is None:
            return content
        return strict_json.dumps(report | {"data": told | {"response": _without_body(told["response"])}})


def _without_body(response: dict[str, Any]) -> dict[str, Any]:
    return {"status_code": response["status_code"], "headers": response["headers"], "truncated": True}
