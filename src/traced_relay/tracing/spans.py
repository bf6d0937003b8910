"""The relay's own spans: `send {queue}` when it creates a task, `process {queue}` when it runs an attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.trace import Link, SpanKind, Status, StatusCode, format_span_id, format_trace_id, get_current_span

from traced_relay.logs.record import TraceRef
from traced_relay.tracing import attributes as names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanContext, Tracer
    from opentelemetry.util.types import AttributeValue


def sending(tracer: Tracer, queue: str, task_id: str, *, task_name: str) -> AbstractContextManager[Span]:
    return _current(tracer, "send", SpanKind.PRODUCER, queue, task_id, {names.TASK_NAME: task_name})


def processing(
    tracer: Tracer,
    queue: str,
    task_id: str,
    *,
    task_name: str,
    attempt: int,
    task_retry_count: int | None = None,
    queue_delay_ms: int | None = None,
    context: Context | None = None,
    links: Sequence[SpanContext] = (),
) -> AbstractContextManager[Span]:
    attributes = {
        names.TASK_NAME: task_name,
        names.TASK_RETRY_COUNT: task_retry_count,
        names.ATTEMPT: attempt,
        names.QUEUE_DELAY_MS: queue_delay_ms,
    }
    return _current(tracer, "process", SpanKind.CONSUMER, queue, task_id, attributes, context, links)


def started(tracer: Tracer, queue: str, context: Context | None, *, at: float) -> None:
    """
    End a span of no length for the attempt that starts now.

    A span is exported when it ends: without this one, the trace would not show a call that runs for a day or is
    killed. Its parent is in *context*, or the current span; it names the current span, which ends later.
    *at* is now, in seconds.
    """
    now = int(at * 1e9)
    pending = trace_ref(get_current_span()).span_id
    span = tracer.start_span(
        f"process {queue} started", context, SpanKind.INTERNAL, {names.PENDING_SPAN_ID: pending}, start_time=now
    )
    span.end(now)


def set_rewritten(span: Span) -> None:
    """Mark the dispatch's *span*: its task came with another context than the relay gave it."""
    span.set_attribute(names.TRACE_REWRITTEN, True)


def set_error(span: Span, error_type: str) -> None:
    """Mark the attempt's *span* as failed, without a verdict."""
    span.set_attribute(names.ERROR_TYPE, error_type)
    span.set_status(Status(StatusCode.ERROR, error_type))


def set_verdict(
    span: Span,
    *,
    verdict: str,
    reason: str | None = None,
    blame: str | None = None,
    retry_delay_ms: int | None = None,
    status_code: int | None = None,
) -> None:
    """Write the result of an attempt on its *span*."""
    attributes = {
        names.VERDICT: verdict,
        names.REASON: reason,
        names.BLAME: blame,
        names.RETRY_DELAY_MS: retry_delay_ms,
    }
    span.set_attributes(_known(attributes))
    if verdict != "succeeded":
        is_status = status_code is not None and reason == f"http_{status_code}"
        span.set_attribute(names.ERROR_TYPE, str(status_code) if is_status else reason or verdict)
        span.set_status(Status(StatusCode.ERROR, reason))


def trace_ref(span: Span) -> TraceRef:
    context = span.get_span_context()
    return TraceRef(format_trace_id(context.trace_id), format_span_id(context.span_id), context.trace_flags.sampled)


def _current(
    tracer: Tracer,
    operation: str,
    kind: SpanKind,
    queue: str,
    task_id: str,
    attributes: Mapping[str, AttributeValue | None],
    context: Context | None = None,
    links: Sequence[SpanContext] = (),
) -> AbstractContextManager[Span]:
    of_operation = {
        names.MESSAGING_SYSTEM: names.SYSTEM,
        names.OPERATION_NAME: operation,
        names.OPERATION_TYPE: operation,
        names.DESTINATION_NAME: queue,
        names.MESSAGE_ID: task_id,
    }
    return tracer.start_as_current_span(
        f"{operation} {queue}", context, kind, of_operation | _known(attributes), [Link(linked) for linked in links]
    )


def _known(attributes: Mapping[str, AttributeValue | None]) -> dict[str, AttributeValue]:
    return {name: value for name, value in attributes.items() if value is not None}
