"""The current trace as headers: in the standard's form, and as the relay's own copy. Light, for clients import it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from opentelemetry.context import Context

COPY = "x-relay-"
# W3C asks for at least 512; one member may have 513. A task carries it twice, and a server takes 8 kB of headers.
LONGEST_STATE = 513
_LARGE_MEMBER = 128
W3C = TraceContextTextMapPropagator()


def task_headers(context: Context | None = None) -> dict[str, str]:
    """The headers a task carries: the context in the standard's form, and the relay's own copy."""
    standard: dict[str, str] = {}
    W3C.inject(standard, context)
    if state := _shortened(standard.pop("tracestate", "")):
        standard["tracestate"] = state
    return standard | {COPY + name: value for name, value in standard.items()}


def _shortened(state: str) -> str:
    """Remove whole members, the last one first, and large ones before all others, as W3C says."""
    members = state.split(",")
    while len(state) > LONGEST_STATE:
        large = [number for number, member in enumerate(members) if len(member) > _LARGE_MEMBER]
        del members[(large or [-1])[-1]]
        state = ",".join(members)
    return state
