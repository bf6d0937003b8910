"""The sampling decision: made once, by one ratio, and kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, get_current_span, use_span

from traced_relay.tracing import propagation, provider, spans

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

TRACE_ID, LOW = "f" * 32, "0" * 15 + "1" + "0" * 15 + "1"  # one that a half leaves out, one that it takes
ENQUEUE, DISPATCH = "POST /v1/tasks", "POST /dispatch"


def tracer(ratio: float) -> Tracer:
    return provider.tracer_of(provider.create_provider(version="v", instance="i", ratio=ratio))


def arriving(ratio: float, name: str, **headers: str) -> bool:
    """Whether the span of such a request is recorded."""
    context = propagation.parent_context({name.replace("_", "-"): value for name, value in headers.items()})
    span = tracer(ratio).start_span(name, context, SpanKind.SERVER)
    return sampled(span)


def sampled(span: Span) -> bool:
    assert span.is_recording() == spans.trace_ref(span).sampled
    return span.is_recording()


def traceparent(flag: str, trace_id: str = TRACE_ID) -> str:
    return f"00-{trace_id}-{'b' * 16}-{flag}"


@pytest.mark.parametrize("name", [ENQUEUE, "POST /v1/tasks:batch", DISPATCH])
def test_a_front_ends_not_sampled_flag_is_ignored(name: str) -> None:
    assert arriving(1.0, name, traceparent=traceparent("00"))
    assert not arriving(0.0, name, traceparent=traceparent("00"))


def test_a_callers_copy_counts_like_its_traceparent() -> None:
    assert arriving(1.0, ENQUEUE, x_relay_traceparent=traceparent("00"))
    assert not arriving(0.0, ENQUEUE, x_relay_traceparent=traceparent("00"))
    assert arriving(0.0, ENQUEUE, x_relay_traceparent=traceparent("01")) == arriving(
        0.0, ENQUEUE, traceparent=traceparent("01")
    )


@pytest.mark.parametrize("ratio_of_today", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("decided", "flag"), [(True, "01"), (False, "00")])
def test_a_dispatch_follows_the_decision_at_enqueue(ratio_of_today: float, decided: bool, flag: str) -> None:
    front_end = traceparent("00")
    assert arriving(ratio_of_today, DISPATCH, traceparent=front_end, x_relay_traceparent=traceparent(flag)) is decided


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("flag", ["00", "01"])
def test_an_attempt_follows_its_rows_decision_in_a_new_trace(is_old: bool, flag: str) -> None:
    trace = propagation.trace_context(propagation.parent_context({"traceparent": traceparent(flag)}))
    arrival = propagation.arrival(trace, is_old=is_old)
    for ratio in (0.0, 1.0):
        with spans.processing(
            tracer(ratio), "relay", "t1", task_name="t1-1", attempt=1, context=arrival.parent, links=arrival.links
        ) as span:
            assert sampled(span) is (flag == "01")
            assert (spans.trace_ref(span).trace_id == TRACE_ID) is not is_old


def test_one_ratio_decides_alike_at_enqueue_and_dispatch() -> None:
    for trace_id, taken in ((TRACE_ID, False), (LOW, True)):
        assert arriving(0.5, ENQUEUE, traceparent=traceparent("00", trace_id)) is taken
        assert arriving(0.5, DISPATCH, traceparent=traceparent("00", trace_id)) is taken


def test_children_follow_their_parents_decision() -> None:
    root = tracer(0.0).start_span(ENQUEUE, Context())
    with use_span(root):
        assert not sampled(tracer(1.0).start_span("send relay"))
        assert get_current_span() is root
