"""The latest spans of this process, kept in memory for `dev`, `demo` and tests."""

from __future__ import annotations

from collections import deque
from threading import Condition
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import format_span_id, format_trace_id

from traced_relay.formats.durations import format_time
from traced_relay.tracing.span_tree import FinishedSpan, SpanNode, tree_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext


class SpanStore(SpanProcessor):
    """The latest *limit* finished spans; all that ended after *whole_since* are kept."""

    def __init__(self, limit: int = 10_000) -> None:
        self.whole_since = ""
        self._spans: deque[ReadableSpan] = deque(maxlen=limit)
        self._lock = Condition()

    def on_end(self, span: ReadableSpan) -> None:
        with self._lock:
            if len(self._spans) == self._spans.maxlen:
                self.whole_since = max(self.whole_since, format_time((self._spans[0].end_time or 0) / 1e9))
            self._spans.append(span)
            self._lock.notify_all()

    def wait_for(self, count: int, seconds: float = 10.0) -> bool:
        """Waits until *count* spans have ended: a request's own span ends after its response."""
        with self._lock:
            return self._lock.wait_for(lambda: len(self._spans) >= count, seconds)

    def spans(self, trace_id: str | None = None) -> list[FinishedSpan]:
        with self._lock:
            kept = list(self._spans)
        read = (_finished(span, context) for span in kept if (context := span.get_span_context()) is not None)
        return [span for span in read if trace_id is None or span.trace_id == trace_id]

    def tree(self, trace_id: str) -> tuple[SpanNode, ...]:
        return tree_of(self.spans(trace_id))


def _finished(span: ReadableSpan, context: SpanContext) -> FinishedSpan:
    return FinishedSpan(
        name=span.name,
        kind=span.kind.name,
        trace_id=format_trace_id(context.trace_id),
        span_id=format_span_id(context.span_id),
        parent_id=format_span_id(span.parent.span_id) if span.parent else None,
        start=(span.start_time or 0) / 1e9,
        end=(span.end_time or 0) / 1e9,
        status=span.status.status_code.name,
        attributes=dict(span.attributes or {}),
        links=tuple(
            (format_trace_id(link.context.trace_id), format_span_id(link.context.span_id)) for link in span.links
        ),
    )
