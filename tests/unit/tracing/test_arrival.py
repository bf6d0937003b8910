"""How a dispatch belongs to the trace of its task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace
from opentelemetry.context import attach, detach

from traced_relay.tracing import propagation
from traced_relay.tracing.provider import create_disabled_provider, tracer_of

if TYPE_CHECKING:
    from traced_relay.tracing.propagation import Arrival

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SEND = f"00-{TRACE_ID}-b7ad6b7169203331-01"
UNSAMPLED = f"00-{TRACE_ID}-b7ad6b7169203331-00"
PLATFORM = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
TASK = propagation.trace_context(propagation.parent_context({"traceparent": SEND, "tracestate": "vendor=1"}))


def arrival(headers: dict[str, str], *, is_old: bool = False) -> Arrival:
    context = propagation.parent_context(headers)
    token = attach(context)
    try:
        with tracer_of(create_disabled_provider()).start_as_current_span("POST /dispatch", context):
            return propagation.arrival(TASK, is_old=is_old)
    finally:
        detach(token)


def headers_of(found: Arrival) -> dict[str, str]:
    assert found.send is not None
    return propagation.trace_context(found.send).task_headers()


@pytest.mark.parametrize("traceparent", [SEND, PLATFORM, UNSAMPLED, "nonsense"])
def test_an_attempt_is_under_a_dispatch_with_the_relays_copy(traceparent: str) -> None:
    found = arrival(TASK.task_headers() | {"traceparent": traceparent})
    assert (found.parent, found.links) == (None, ())
    assert found.is_rewritten is (traceparent not in (SEND, UNSAMPLED))
    assert headers_of(found) == TASK.task_headers()


@pytest.mark.parametrize("traceparent", [PLATFORM, UNSAMPLED])
def test_an_attempt_is_under_its_send_without_the_copy(traceparent: str) -> None:
    found = arrival({"traceparent": traceparent})
    assert found.is_rewritten
    assert found.parent is not None
    assert trace.get_current_span(found.parent).get_span_context().span_id == int(TASK.span_id, 16)
    assert headers_of(found) == TASK.task_headers()


def test_an_attempt_of_an_old_task_starts_a_linked_trace() -> None:
    found = arrival(TASK.task_headers(), is_old=True)
    assert found.parent is not None
    assert not trace.get_current_span(found.parent).get_span_context().is_valid
    assert ([link.span_id for link in found.links], found.send) == ([int(TASK.span_id, 16)], None)
