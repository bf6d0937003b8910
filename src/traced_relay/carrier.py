"""The current trace as headers: in the standard's form, and as the relay's own copy. Light, for clients import it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from opentelemetry.context import Context

COPY = "x-relay-"
W3C = TraceContextTextMapPropagator()


def task_headers(context: Context | None = None) -> dict[str, str]:
    """The headers a task carries: the context in the standard's form, and the relay's own copy."""
    standard: dict[str, str] = {}
    W3C.inject(standard, context)
    return standard | {COPY + name: value for name, value in standard.items()}
