"""The process's tracer provider: its sampler, resource and limits; or one that creates ids only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import propagate
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.sdk.version import __version__ as sdk_version
from opentelemetry.trace import get_current_span

from traced_relay.tracing.attributes import ARRIVALS, DISPATCH, MAX_ATTRIBUTES, MAX_VALUE_LENGTH
from traced_relay.tracing.propagation import PROPAGATOR, has_own_copy
from traced_relay.tracing.tracer import DisabledProvider, RelayProvider, RelayTracer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Link, SpanKind, Tracer, TracerProvider, TraceState
    from opentelemetry.util.types import Attributes


_SERVICE = "traced-relay"
_SDK = {
    "telemetry.sdk.language": "python",
    "telemetry.sdk.name": "opentelemetry",
    "telemetry.sdk.version": sdk_version,
}
_MAX_LINKS = 128  # OpenTelemetry's default, for events as well


def create_provider(
    *,
    version: str,
    instance: str,
    processors: Iterable[SpanProcessor] = (),
    ratio: float = 1.0,
    attributes: Mapping[str, Any] | None = None,
    max_attributes: int = MAX_ATTRIBUTES,
    max_value_length: int = MAX_VALUE_LENGTH,
) -> RelayProvider:
    """
    Create a provider and make the relay's propagator the process's own.

    The caller passes the provider on and shuts it down; the global provider stays as it is. *version* and *instance*
    are those of the log records and override *attributes* of the resource. The environment has no effect.
    """
    propagate.set_global_textmap(PROPAGATOR)
    own = {"service.version": version, "service.instance.id": instance}
    provider = RelayProvider(
        sampler=DecideOnceSampler(ratio),
        resource=Resource({"service.name": _SERVICE} | dict(attributes or {}) | _SDK | own),
        limits=_limits(max_attributes, max_value_length),
        shutdown_on_exit=False,
    )
    for processor in processors:
        provider.add_span_processor(processor)
    return provider


class DecideOnceSampler(Sampler):
    """
    Samples *ratio* of all traces when a request arrives; every later span of the trace follows that decision.

    Front ends mark untraced requests as "not sampled", so an arriving request's flag counts only if the relay wrote
    it: in its own copy of a task's context, or in the row.
    """

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio
        self._by_ratio = TraceIdRatioBased(ratio)

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,  # noqa: ARG002  (the signature is the SDK's)
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,  # noqa: ARG002
    ) -> SamplingResult:
        parent = get_current_span(parent_context).get_span_context()
        if links and not parent.is_valid:
            parent = links[0].context  # a new trace that continues another one keeps that one's decision
        is_decided = name not in ARRIVALS or (name == DISPATCH and has_own_copy(parent_context))
        if not parent.is_valid or not (is_decided or parent.trace_flags.sampled or not parent.is_remote):
            is_sampled = self._by_ratio.should_sample(None, trace_id, name).decision is Decision.RECORD_AND_SAMPLE
        else:
            is_sampled = parent.trace_flags.sampled
        decision = Decision.RECORD_AND_SAMPLE if is_sampled else Decision.DROP
        return SamplingResult(decision, attributes if is_sampled else None, parent.trace_state)

    def get_description(self) -> str:
        return f"DecideOnceSampler{{{self._ratio}}}"


def _limits(attributes: int, length: int) -> SpanLimits:
    """Sets every limit, since the SDK reads a missing one from the environment."""
    return SpanLimits(
        max_attributes=attributes,
        max_span_attributes=attributes,
        max_event_attributes=attributes,
        max_link_attributes=attributes,
        max_events=_MAX_LINKS,
        max_links=_MAX_LINKS,
        max_attribute_length=length,
        max_span_attribute_length=length,
    )


def create_disabled_provider() -> TracerProvider:
    propagate.set_global_textmap(PROPAGATOR)
    return DisabledProvider()


def tracer_of(provider: TracerProvider) -> Tracer:
    """The relay's own tracer."""
    return RelayTracer(provider, _SERVICE)
