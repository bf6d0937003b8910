"""Where spans come from: one provider a process, with the limits that Cloud Trace sets."""

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
from traced_relay.tracing.otel_yaml import LONGEST_VALUE, MOST_ATTRIBUTES
from traced_relay.tracing.propagation import PROPAGATOR, has_own_copy
from traced_relay.tracing.redaction import RedactingProvider

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from opentelemetry.sdk.trace import SpanProcessor
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


_IDS = RandomIdGenerator()


class IdsOnly(ApiTracerProvider):
    def get_tracer(self, *_: Any, **__: Any) -> Tracer:
        return _IdsTracer()


class _IdsTracer(Tracer):
    def start_span(self, name: str, context: Context | None = None, *_: Any, **__: Any) -> Span:  # noqa: ARG002
        parent = get_current_span(context).get_span_context()
        return NonRecordingSpan(
            SpanContext(
                parent.trace_id if parent.is_valid else _IDS.generate_trace_id(),
                _IDS.generate_span_id(),
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


_SERVICE = "traced-relay"
_SDK = {
    "telemetry.sdk.language": "python",
    "telemetry.sdk.name": "opentelemetry",
    "telemetry.sdk.version": sdk_version,
}
_MOST_LINKS = 128  # OpenTelemetry's own default, of events too


class _Ids(RandomIdGenerator):
    def is_trace_id_random(self) -> bool:
        """Leave that flag out of new traces: older parsers in Go and Rust drop a `traceparent` that ends in 03."""
        return False


def configure(
    *,
    version: str,
    instance: str,
    processors: Iterable[SpanProcessor] = (),
    ratio: float = 1.0,
    attributes: Mapping[str, Any] | None = None,
    most_attributes: int = MOST_ATTRIBUTES,
    longest_value: int = LONGEST_VALUE,
) -> TracerProvider:
    """
    Make the provider, and how context is read and written the process's own.

    The provider is passed on by hand and shut down by whoever made it; the global one is left to the process's owner.
    *attributes* are the resource's, beside what is known here; version and instance are those of the records. Nothing
    is read from the environment.
    """
    propagate.set_global_textmap(PROPAGATOR)
    own = {"service.version": version, "service.instance.id": instance}
    provider = TracerProvider(
        sampler=OnceByRatio(ratio),
        resource=Resource({"service.name": _SERVICE} | dict(attributes or {}) | _SDK | own),
        id_generator=_Ids(),
        span_limits=_limits(most_attributes, longest_value),
        shutdown_on_exit=False,
    )
    for processor in processors:
        provider.add_span_processor(processor)
    return provider


def _limits(attributes: int, length: int) -> SpanLimits:
    """All of them: one that is not given is read from the environment, where it may be another, or nonsense."""
    return SpanLimits(
        max_attributes=attributes,
        max_span_attributes=attributes,
        max_event_attributes=attributes,
        max_link_attributes=attributes,
        max_events=_MOST_LINKS,
        max_links=_MOST_LINKS,
        max_attribute_length=length,
        max_span_attribute_length=length,
    )


def configure_off() -> ApiTracerProvider:
    """The same without any span: what comes in goes out again, and everything has its ids."""
    propagate.set_global_textmap(PROPAGATOR)
    return IdsOnly()


def tracer_of(provider: ApiTracerProvider) -> Tracer:
    return RedactingProvider(provider, start=lambda _, attributes: attributes).get_tracer(_SERVICE)
