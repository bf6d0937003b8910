"""The W3C trace context of a task, as its row keeps it and its headers carry it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping

COPY = "x-relay-"


class TraceContext(Struct, frozen=True):
    """Context of a task's first `send` span: *carrier* is its `traceparent` and `tracestate`, the rest its parts."""

    carrier: Mapping[str, str]
    trace_id: str
    span_id: str
    sampled: bool

    def task_headers(self) -> dict[str, str]:
        """The headers of a task: the standard ones, and the relay's own copy of each."""
        return {**self.carrier, **{COPY + name: value for name, value in self.carrier.items()}}
