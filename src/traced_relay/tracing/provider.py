"""The process's tracer provider: its sampler, resource and limits; or one that creates ids only."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.sdk.version import __version__ as sdk_version
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    Tracer,
    get_current_span,
    set_span_in_context,
    use_span,
)
from opentelemetry.trace import TracerProvider as ApiTracerProvider

from traced_relay.tracing.attributes import ARRIVALS, DISPATCH
from traced_relay.tracing.otel_yaml import MAX_ATTRIBUTES, MAX_VALUE_LENGTH
from traced_relay.tracing.propagation import PROPAGATOR, has_own_copy
from traced_relay.tracing.redaction import RedactingProvider

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Link, SpanKind, TraceState
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
) -> TracerProvider:
    """
    Create a provider and make the relay's propagator the process's own.

    The caller passes the provider on and shuts it down; the global provider stays as it is. *version* and *instance*
    are those of the log records and override *attributes* of the resource. The environment has no effect.
    """
    propagate.set_global_textmap(PROPAGATOR)
    own = {"service.version": version, "service.instance.id": instance}
    provider = TracerProvider(
        sampler=DecideOnceSampler(ratio),
        resource=Resource({"service.name": _SERVICE} | dict(attributes or {}) | _SDK | own),
        id_generator=_IdGenerator(),
        span_limits=_limits(max_attributes, max_value_length),
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
        by_ratio = TraceIdRatioBased(ratio)
        self._undecided = ParentBased(by_ratio, remote_parent_not_sampled=by_ratio)
        self._decided = ParentBased(by_ratio)

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
            # A new trace that continues another one keeps that one's decision.
            parent_context = set_span_in_context(NonRecordingSpan(links[0].context), Context())
        is_decided = name not in ARRIVALS or (name == DISPATCH and has_own_copy(parent_context))
        sampler = self._decided if is_decided else self._undecided
        return sampler.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return f"DecideOnceSampler{{{self._ratio}}}"


class _IdGenerator(RandomIdGenerator):
    def is_trace_id_random(self) -> bool:
        """Leaves the flag out of new traces: older parsers in Go and Rust drop a `traceparent` that ends in 03."""
        return False


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


def create_disabled_provider() -> ApiTracerProvider:
    """A provider that records nothing; context still propagates, and every task has a trace id and span ids."""
    propagate.set_global_textmap(PROPAGATOR)
    return _IdsOnlyProvider()


class _IdsOnlyProvider(ApiTracerProvider):
    def get_tracer(self, *_: Any, **__: Any) -> Tracer:
        return _IdsOnlyTracer()


class _IdsOnlyTracer(Tracer):
    _ids = RandomIdGenerator()

    def start_span(self, name: str, context: Context | None = None, *_: Any, **__: Any) -> Span:  # noqa: ARG002
        parent = get_current_span(context).get_span_context()
        return NonRecordingSpan(
            SpanContext(
                parent.trace_id if parent.is_valid else self._ids.generate_trace_id(),
                self._ids.generate_span_id(),
                is_remote=False,
                trace_flags=parent.trace_flags,
                trace_state=parent.trace_state,
            )
        )

    @contextmanager
    def start_as_current_span(  # type: ignore[override]  # the original's decorator is private
        self, name: str, context: Context | None = None, *_: Any, end_on_exit: bool = True, **__: Any
    ) -> Iterator[Span]:
        with use_span(self.start_span(name, context), end_on_exit=end_on_exit) as span:
            yield span


def tracer_of(provider: ApiTracerProvider) -> Tracer:
    """The relay's own tracer, with redaction."""
    return RedactingProvider(provider, start=lambda _, attributes: attributes).get_tracer(_SERVICE)
