"""
The trace's way through Cloud Tasks.

A task carries its context twice, because Google's front ends replace the parent in `traceparent`; the relay's own
copy decides who the parent is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context, create_key, get_value, set_value
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import SpanContext

_PREFIX = "x-relay-"
_W3C = TraceContextTextMapPropagator()
_REWRITTEN = create_key("relay-trace-rewritten")
_PLATFORM_SPAN = create_key("relay-platform-span")


class RelayOrigin(TextMapPropagator):
    """
    Lets the relay's own copy of the context win over what the platform made of `traceparent`.

    Listed after `tracecontext`. Reads only: the copy is written with a task, never into other calls.
    """

    def extract(
        self, carrier: CarrierT, context: Context | None = None, getter: Getter[CarrierT] = default_getter
    ) -> Context:
        seen = context if context is not None else Context()
        names = ("traceparent", "tracestate")
        copy = {name: found for name in names if (found := getter.get(carrier, _PREFIX + name))}
        origin = trace.get_current_span(_W3C.extract(copy, Context()))
        if not origin.get_span_context().is_valid:
            return seen
        platform = trace.get_current_span(seen).get_span_context()
        if _same_span(platform, origin.get_span_context()):
            return trace.set_span_in_context(origin, seen)
        kept = set_value(_REWRITTEN, True, trace.set_span_in_context(origin, seen))
        return set_value(_PLATFORM_SPAN, platform, kept) if platform.is_valid else kept

    def inject(
        self, carrier: CarrierT, context: Context | None = None, setter: Setter[CarrierT] = default_setter
    ) -> None:
        """Nothing: see the class."""

    @property
    def fields(self) -> set[str]:
        return set()


PROPAGATOR = CompositePropagator([_W3C, RelayOrigin()])  # no baggage, in or out


def rewritten(context: Context | None = None) -> bool:
    """Whether the platform changed or dropped the `traceparent` that the relay had sent."""
    return bool(get_value(_REWRITTEN, context))


def platform_span(context: Context | None = None) -> SpanContext | None:
    """The parent that the platform put in place of ours; None if it did not."""
    found = get_value(_PLATFORM_SPAN, context)
    return found if isinstance(found, trace.SpanContext) else None


def task_headers(context: Context | None = None) -> dict[str, str]:
    """The headers a task carries: the context in the standard's form, and the relay's own copy."""
    standard: dict[str, str] = {}
    _W3C.inject(standard, context)
    return standard | {_PREFIX + name: value for name, value in standard.items()}


def parent_context(carrier: Mapping[str, str]) -> Context:
    """Go on with a trace from *carrier*, the headers of a task as they were stored, whatever runs at the moment."""
    return PROPAGATOR.extract({name.lower(): value for name, value in carrier.items()}, Context())


def _same_span(one: SpanContext, other: SpanContext) -> bool:
    return (one.trace_id, one.span_id) == (other.trace_id, other.span_id)
