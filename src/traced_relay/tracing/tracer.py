"""
The relay's spans: plain values until they end, then one span of the SDK for the processors.

The SDK's provider still decides what is recorded, under which resource and limits. Its own span takes a lock and
copies all attributes at every change, which made spans the most expensive part of a request.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import attach, detach
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TracerProvider,
    get_current_span,
    set_span_in_context,
)

from traced_relay.runtime.clock import epoch_ns
from traced_relay.tracing.attributes import MAX_VALUE_LENGTH
from traced_relay.tracing.redaction import redacted
from traced_relay.tracing.spans import set_error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanLimits, SpanProcessor
    from opentelemetry.util.types import Attributes, AttributeValue


_UNSET = Status(StatusCode.UNSET)
_ids = RandomIdGenerator()


class RelayProvider(SdkTracerProvider):
    """The SDK's provider; its *limits* and processors are readable."""

    def __init__(self, *, limits: SpanLimits, **others: Any) -> None:
        super().__init__(span_limits=limits, **others)
        self.limits = limits
        self.processors: tuple[SpanProcessor, ...] = ()

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        super().add_span_processor(span_processor)
        self.processors += (span_processor,)


class DisabledProvider(TracerProvider):
    """Records nothing; context still propagates, and every task has a trace id and span ids."""

    def get_tracer(self, *_: Any, **__: Any) -> Tracer:
        return RelayTracer(None, "")


class InstrumentationProvider(TracerProvider):
    """What an instrumentation gets as its provider: its tracers are RelayTracers of *provider*."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,  # noqa: ARG002  (of the scope; no instrumentation of ours has any)
    ) -> Tracer:
        return RelayTracer(self._provider, instrumenting_module_name, instrumenting_library_version, schema_url)


class RelayTracer(Tracer):
    """Starts spans of *provider*; without a RelayProvider, spans that only have ids."""

    def __init__(
        self, provider: TracerProvider | None, scope: str, version: str | None = None, schema_url: str | None = None
    ) -> None:
        self.provider = provider if isinstance(provider, RelayProvider) else None
        self.scope = InstrumentationScope(scope, version, schema_url)

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,  # noqa: ARG002  (its text may contain a URL with its query)
        set_status_on_exception: bool = True,  # noqa: ARG002  (start_as_current_span sets it)
    ) -> Span:
        parent = get_current_span(context).get_span_context()
        trace_id = parent.trace_id if parent.is_valid else _ids.generate_trace_id()
        flags, state, is_recording = parent.trace_flags, parent.trace_state, False
        if self.provider is not None:
            sampling = self.provider.sampler.should_sample(context, trace_id, name, kind, attributes, links)
            is_recording = sampling.decision is Decision.RECORD_AND_SAMPLE
            flags = TraceFlags((flags & ~TraceFlags.SAMPLED) | (TraceFlags.SAMPLED if is_recording else 0))
            state = sampling.trace_state or state
        own = SpanContext(trace_id, _ids.generate_span_id(), is_remote=False, trace_flags=flags, trace_state=state)
        span = RelaySpan(self, name, own, parent if parent.is_valid else None, kind, links or ())
        if is_recording:
            span.record(redacted(attributes or {}), start_time)
        return span

    def start_as_current_span(  # type: ignore[override]  # the original's decorator is private
        self, name: str, *args: Any, end_on_exit: bool = True, **kwargs: Any
    ) -> CurrentSpan:
        return CurrentSpan(self.start_span(name, *args, **kwargs), is_ended=end_on_exit)


class CurrentSpan:
    """
    Makes *span* the current one in *context*, by default the current one, and ends it.

    An exception leaves its class on the span, not its text, which may contain a URL with its query.
    """

    __slots__ = ("_context", "_is_ended", "_span", "_token")

    def __init__(self, span: Span, context: Context | None = None, *, is_ended: bool = True) -> None:
        self._span = span
        self._context = context
        self._is_ended = is_ended

    def __enter__(self) -> Span:
        self._token = attach(set_span_in_context(self._span, self._context))
        return self._span

    def __exit__(self, _: object, exc: BaseException | None, __: object) -> None:
        detach(self._token)
        if isinstance(exc, Exception):
            set_error(self._span, type(exc).__qualname__)
        if self._is_ended:
            self._span.end()


class RelaySpan(Span):
    """
    Only known attributes remain, without headers, queries and exception texts, whatever library sets them.

    Not a NonRecordingSpan: a no-op tracer of another library would take that for its own, and end it.
    """

    kind = SpanKind.INTERNAL  # the instrumentations record headers only for kind SERVER

    def __init__(
        self,
        tracer: RelayTracer,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        links: Sequence[Link],
    ) -> None:
        self._tracer = tracer
        self._name = name
        self._context = context
        self._parent = parent
        self._kind = kind
        self._links = links
        self._is_recording = False

    def record(self, attributes: dict[str, AttributeValue], start_time: int | None) -> None:
        """Begin, at *start_time* in nanoseconds since the epoch, or now."""
        self._attributes = attributes
        self._start_time = epoch_ns() if start_time is None else start_time
        self._status = _UNSET
        self._is_recording = True

    def discard(self) -> None:
        """Record nothing; no processor gets the span."""
        self._is_recording = False

    def end(self, end_time: int | None = None) -> None:
        provider = self._tracer.provider
        if provider is None or not self._is_recording:
            return
        self._is_recording = False
        ended = ReadableSpan(
            self._name,
            self._context,
            self._parent,
            provider.resource,
            _bounded(self._attributes, provider.limits),
            links=self._links,
            kind=self._kind,
            status=self._status,
            start_time=self._start_time,
            end_time=epoch_ns() if end_time is None else end_time,
            instrumentation_scope=self._tracer.scope,
        )
        for processor in provider.processors:
            processor.on_end(ended)

    def get_span_context(self) -> SpanContext:
        return self._context

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        if self._is_recording:
            self._attributes.update(redacted(attributes))

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        self.set_attributes({key: value})

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        """Does nothing: the relay has no events, and an exception would be one."""

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        self._links = (*self._links, Link(context, redacted(attributes or {})))

    def update_name(self, name: str) -> None:
        self._name = name

    def is_recording(self) -> bool:
        return self._is_recording

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:  # noqa: ARG002
        """Sets the code alone: a description may contain secrets."""
        code = status.status_code if isinstance(status, Status) else status
        # OpenTelemetry's specification of SetStatus: OK is final, and UNSET changes nothing.
        if self._is_recording and self._status.status_code is not StatusCode.OK and code is not StatusCode.UNSET:
            self._status = Status(code)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Does nothing: `error.type` has the class, and the text may contain secrets."""


def _bounded(attributes: dict[str, AttributeValue], limits: SpanLimits) -> Attributes:
    """The *attributes* within the *limits*, as the SDK counts them: the latest remain."""
    most, longest = limits.max_span_attributes, limits.max_span_attribute_length
    if (most is None or len(attributes) <= most) and (longest is None or longest >= MAX_VALUE_LENGTH):
        return MappingProxyType(attributes)
    return BoundedAttributes(most, attributes, immutable=True, max_value_len=longest)
