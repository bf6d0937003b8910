"""
One trace from the caller to the downstream.

Trace context is cargo: OpenTelemetry's propagators read and write it, nothing here takes a header apart.
"""

from traced_relay.span_tree import FinishedSpan, SpanNode
from traced_relay.trace_ref import TraceRef
from traced_relay.tracing.instrumentation import calling, instrument, refuse
from traced_relay.tracing.propagation import (
    RelayOrigin,
    parent_context,
    platform_span,
    rewritten,
    task_headers,
)
from traced_relay.tracing.provider import configure, tracer_of
from traced_relay.tracing.spans import interrupted, judged, processing, sending, started, trace_ref
from traced_relay.tracing.store import SpanStore

__all__ = [
    "FinishedSpan",
    "RelayOrigin",
    "SpanNode",
    "SpanStore",
    "TraceRef",
    "calling",
    "configure",
    "instrument",
    "interrupted",
    "judged",
    "parent_context",
    "platform_span",
    "processing",
    "refuse",
    "rewritten",
    "sending",
    "started",
    "task_headers",
    "trace_ref",
    "tracer_of",
]
