"""
One trace from the caller to the downstream.

Trace context is cargo: `propagation` reads and writes it, with OpenTelemetry's propagators; all else passes it on.
"""

from traced_relay.carrier import task_headers
from traced_relay.span_tree import FinishedSpan, SpanNode
from traced_relay.trace_ref import TraceRef
from traced_relay.tracing.exporters import detected, exporter_of
from traced_relay.tracing.instrumentation import calling, instrument, refuse, unseen
from traced_relay.tracing.otel_file import OtelFile
from traced_relay.tracing.otel_file import read as read_otel_file
from traced_relay.tracing.outbox import AT_THE_END, Outbox
from traced_relay.tracing.propagation import (
    Place,
    RelayOrigin,
    came_with,
    parent_context,
    place_of,
    platform_span,
    rewritten,
)
from traced_relay.tracing.provider import configure, configure_off, tracer_of
from traced_relay.tracing.spans import came_rewritten, interrupted, judged, processing, sending, started, trace_ref
from traced_relay.tracing.store import SpanStore

__all__ = [
    "AT_THE_END",
    "FinishedSpan",
    "OtelFile",
    "Outbox",
    "Place",
    "RelayOrigin",
    "SpanNode",
    "SpanStore",
    "TraceRef",
    "calling",
    "came_rewritten",
    "came_with",
    "configure",
    "configure_off",
    "detected",
    "exporter_of",
    "instrument",
    "interrupted",
    "judged",
    "parent_context",
    "place_of",
    "platform_span",
    "processing",
    "read_otel_file",
    "refuse",
    "rewritten",
    "sending",
    "started",
    "task_headers",
    "trace_ref",
    "tracer_of",
    "unseen",
]
