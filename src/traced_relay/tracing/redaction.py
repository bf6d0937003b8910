"""
Redaction of the instrumentations' spans: only known attributes remain, and a refused request has no span.

No header, query string or exception text gets into a span, whatever the environment configures. The instrumentations
have no setting for this, but they use the tracer provider that they are given.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, Status, StatusCode, Tracer, TracerProvider, use_span

from traced_relay.tracing.attributes import ATTRIBUTES, OWN_PREFIXES, URL_FULL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.trace import Link, SpanContext
    from opentelemetry.util.types import Attributes, AttributeValue

    Start = Callable[[str, Mapping[str, AttributeValue]], Mapping[str, AttributeValue] | None]

_MAX_VALUE_BYTES = 256  # Cloud Trace's limit; the SDK counts characters


class RedactingProvider(TracerProvider):
    """
    A provider of tracers with redaction.

    *start* returns the attributes of a span that is about to start, or None for no span. If *hidden* returns true, the
    request that the span stands for carries no `traceparent`.
    """

    def __init__(self, inner: TracerProvider, *, start: Start, hidden: Callable[[], bool] = lambda: False) -> None:
        self._inner = inner
        self._start = start
        self._hidden = hidden

    def get_tracer(self, *args: Any, **kwargs: Any) -> Tracer:
        return _RedactingTracer(self._inner.get_tracer(*args, **kwargs), self._start, self._hidden)


class _RedactingTracer(Tracer):
    def __init__(self, inner: Tracer, start: Start, hidden: Callable[[], bool]) -> None:
        self._inner = inner
        self._start = start
        self._hidden = hidden

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,  # noqa: ARG002  (its text may contain a URL with its query)
        set_status_on_exception: bool = True,
    ) -> Span:
        allowed = self._start(name, attributes or {})
        if allowed is None:
            return INVALID_SPAN
        inner = self._inner.start_span(
            name, context, kind, redacted(allowed), links, start_time, False, set_status_on_exception
        )
        return RedactingSpan(inner)

    @contextmanager
    def start_as_current_span(  # type: ignore[override]  # the original's decorator is private
        self, name: str, *args: Any, end_on_exit: bool = True, **kwargs: Any
    ) -> Iterator[Span]:
        with use_span(self.start_span(name, *args, **kwargs), end_on_exit=end_on_exit) as span:
            if not self._hidden():
                yield span
                return
            with use_span(INVALID_SPAN):
                yield span


class RedactingSpan(Span):
    """Not a NonRecordingSpan: a no-op tracer of another library would take that for its own, and end it."""

    kind = SpanKind.INTERNAL  # the instrumentations record headers only for kind SERVER

    def __init__(self, inner: Span) -> None:
        self._inner = inner
        self._is_discarded = False

    def discard(self) -> None:
        self._is_discarded = True

    def end(self, end_time: int | None = None) -> None:
        """Leaves a discarded span open, so that no processor gets it."""
        if not self._is_discarded:
            self._inner.end(end_time)

    def get_span_context(self) -> SpanContext:
        return self._inner.get_span_context()

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        self._inner.set_attributes(redacted(attributes))

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        self.set_attributes({key: value})

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        """Does nothing: the relay has no events, and an exception would be one."""

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        self._inner.add_link(context, redacted(attributes or {}))

    def update_name(self, name: str) -> None:
        self._inner.update_name(name)

    def is_recording(self) -> bool:
        return self._inner.is_recording()

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:  # noqa: ARG002
        code = status.status_code if isinstance(status, Status) else status
        self._inner.set_status(Status(code))

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Does nothing: `error.type` has the class, and the text may contain secrets."""


def redacted(attributes: Mapping[str, AttributeValue]) -> dict[str, AttributeValue]:
    return {
        name: _value(name, value)
        for name, value in attributes.items()
        if name in ATTRIBUTES or name.startswith(OWN_PREFIXES)
    }


def _value(name: str, value: AttributeValue) -> AttributeValue:
    if not isinstance(value, str):
        return value
    shown = value.partition("?")[0].partition("#")[0] if name == URL_FULL else value
    if shown.isascii() and len(shown) <= _MAX_VALUE_BYTES:
        return shown
    return shown.encode(errors="replace")[:_MAX_VALUE_BYTES].decode(errors="ignore")
