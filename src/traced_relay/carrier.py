"""The current trace as headers: in the standard's form, and as the relay's own copy. Light, for clients import it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from opentelemetry.context import Context

COPY = "x-relay-"
LONGEST_STATE = 512  # what W3C asks everybody to pass on; a task carries it twice, and a server takes 8 kB a header
W3C = TraceContextTextMapPropagator()


def task_headers(context: Context | None = None) -> dict[str, str]:
    """The headers a task carries: the context in the standard's form, and the relay's own copy."""
    standard: dict[str, str] = {}
    W3C.inject(standard, context)
    state = standard.pop("tracestate", "")
    if len(state) > LONGEST_STATE:
        state = state[: LONGEST_STATE + 1].rpartition(",")[0]
    if state:
        standard["tracestate"] = state
    return standard | {COPY + name: value for name, value in standard.items()}
