"""Which traces are recorded: decided once, at enqueue, and kept whatever a front end says later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, get_current_span, set_span_in_context

from traced_relay.tracing.attributes import ARRIVALS, DISPATCH
from traced_relay.tracing.propagation import has_own_copy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.trace import Link, SpanKind, TraceState
    from opentelemetry.util.types import Attributes


class OnceByRatio(Sampler):
    """
    Records *ratio* of all traces, and what a parent has recorded already.

    A parent's "not sampled" is not believed where a request comes in: front ends say it of whatever nobody traced.
    Only what the relay itself has written is: in its copy of a task's context, or in the row.
    """

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio
        by_ratio = TraceIdRatioBased(ratio)
        self._at_arrival = ParentBased(by_ratio, remote_parent_not_sampled=by_ratio)
        self._kept = ParentBased(by_ratio)

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        if links and not get_current_span(parent_context).get_span_context().is_valid:
            # The trace goes on from another one, with what was decided for that.
            parent_context = set_span_in_context(NonRecordingSpan(links[0].context), Context())
        is_decided = name not in ARRIVALS or (name == DISPATCH and has_own_copy(parent_context))
        sampler = self._kept if is_decided else self._at_arrival
        return sampler.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return f"OnceByRatio{{{self._ratio}}}"
