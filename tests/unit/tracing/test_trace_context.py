"""W3C's Trace Context, Level 1 and 2, in its odd but legal forms, with spans and without."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from opentelemetry import propagate
from opentelemetry.sdk.trace import TracerProvider as SdkProvider
from opentelemetry.trace import SpanKind, use_span

from traced_relay.tracing import propagation, spans
from traced_relay.tracing.provider import create_disabled_provider, create_provider, tracer_of

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
IDS = f"{TRACE_ID}-{SPAN_ID}"
PARENT = f"00-{IDS}-01"
K, V = "k" * 256, "v" * 256


@pytest.fixture(params=["spans", "no spans"])
def provider(request: pytest.FixtureRequest) -> TracerProvider:
    if request.param == "no spans":
        return create_disabled_provider()
    return create_provider(version="v", instance="i")


def sent_on(provider: TracerProvider, **headers: str | list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The headers of a task that a request with these *headers* makes, and those of its call to the downstream."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    tracer = tracer_of(provider)
    arrived = propagate.extract(given)
    with (
        use_span(tracer.start_span("POST /v1/tasks", arrived, SpanKind.SERVER)),
        spans.sending(tracer, "relay", "t", task_name="t-1"),
    ):
        trace = propagation.trace_context()
    call: dict[str, str] = {}
    arrival = propagation.arrival(trace, is_old=False)
    with spans.processing(tracer, "relay", "t", task_name="t-1", attempt=1, context=arrival.parent):
        propagate.inject(call)
    return trace.task_headers(), call


def trace_and_flags(provider: TracerProvider, **headers: str | list[str]) -> tuple[str, str]:
    task, call = sent_on(provider, **headers)
    parts = [text.split("-") for text in (task["traceparent"], task["x-relay-traceparent"], call["traceparent"])]
    assert {part[0] for part in parts} == {"00"}
    ((trace_id, flags),) = {(part[1], part[3]) for part in parts}
    return trace_id, flags


def state(provider: TracerProvider, tracestate: str | list[str], traceparent: str = PARENT) -> str | None:
    task, call = sent_on(provider, traceparent=traceparent, tracestate=tracestate)
    (found,) = {task.get("tracestate"), task.get("x-relay-tracestate"), call.get("tracestate")}
    return found


@pytest.mark.parametrize("name", ["traceparent", "x-relay-traceparent"])
@pytest.mark.parametrize(
    ("traceparent", "flags"),
    [
        (f"00-{IDS}-01", "01"),
        (f"00-{IDS}-03", "03"),
        (f"00-{IDS}-05", "01"),
        (f"00-{IDS}-09", "01"),
        (f"00-{IDS}-ff", "03"),
        (f"01-{IDS}-01", "01"),
        (f"01-{IDS}-01-extra", "01"),
        (f"01-{IDS}-01-", "01"),
        (f"cc-{IDS}-01-what-the-future-will-be-like", "01"),
        (f"fe-{IDS}-ff", "03"),
        (f" \t00-{IDS}-01\t ", "01"),
    ],
)
def test_a_legal_traceparent_is_continued_as_version_00(
    provider: TracerProvider, name: str, traceparent: str, flags: str
) -> None:
    assert trace_and_flags(provider, **{name: traceparent}) == (TRACE_ID, flags)


@pytest.mark.parametrize(
    "traceparent",
    [
        f"ff-{IDS}-01",
        f"00-{IDS}-01-",
        f"00-{IDS}-01-extra",
        f"00-{IDS}-1",
        f"00-{IDS}-0x",
        f"01-{IDS}-01extra",
        f"cc-{IDS}-01.extra",
        f"0-{IDS}-01",
        f"000-{IDS}-01",
        f"00-{IDS.upper()}-01",
        f"0A-{IDS}-01",
        f"00-{IDS}-0A",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID}0-{SPAN_ID}-01",
        f"00-{IDS}",
        f"{PARENT},{PARENT}",
        f"{PARENT}, 00-{'1' * 32}-{SPAN_ID}-01",
        "",
    ],
)
def test_an_illegal_traceparent_starts_a_trace_without_state(provider: TracerProvider, traceparent: str) -> None:
    task, call = sent_on(provider, traceparent=traceparent, tracestate="vendor=1")
    assert set(task) == {"traceparent", "x-relay-traceparent"}
    assert set(call) == {"traceparent"}
    assert TRACE_ID not in task["traceparent"]


def test_a_new_trace_has_no_random_flag(provider: TracerProvider) -> None:
    _, flags = trace_and_flags(provider)
    assert flags == ("01" if isinstance(provider, SdkProvider) else "00")


@pytest.mark.parametrize(
    ("tracestate", "kept"),
    [
        ("a=1,b=2", "a=1,b=2"),
        (["b=2", "a=1"], "b=2,a=1"),
        (["b=2,", "", " ,a=1"], "b=2,a=1"),
        (" a=1 ,\tb=2\t", "a=1,b=2"),
        (",a=1,,b=2,", "a=1,b=2"),
        ("a= 1 2 ,b=1", "a= 1 2,b=1"),
        ("fw529a3039@dt=1,0t-t@v=1", "fw529a3039@dt=1,0t-t@v=1"),
        (f"{'t' * 241}@{'v' * 14}=1", f"{'t' * 241}@{'v' * 14}=1"),
        ("1a=1,2=2,a@b@c=3,a@=4", "1a=1,2=2,a@b@c=3,a@=4"),
        ("a_b-c*d/e=!~", "a_b-c*d/e=!~"),
        (f"{K}=1", f"{K}=1"),
        (f"a={V}", f"a={V}"),
        (f"{K}={V}", f"{K}={V}"),
        ("a=1,b=2,a=3", "a=1,b=2"),
        (["a=1", "a=1"], "a=1"),
        (",".join(f"{f'{n:02}k':k<256}={V}" for n in range(32)), f"{'00k':k<256}={V}"),
        (",".join(f"k{n}=1" for n in range(32)) + ",,", ",".join(f"k{n}=1" for n in range(32))),
    ],
)
def test_a_legal_tracestate_is_passed_on(provider: TracerProvider, tracestate: str | list[str], kept: str) -> None:
    assert state(provider, tracestate) == kept
    assert state(provider, tracestate, f"cc-{IDS}-01-extra") == kept


@pytest.mark.parametrize(
    "tracestate",
    [
        "",
        " , ",
        "A=1",
        "a=1,B=2,c=3",
        "@a=1",
        "a =1",
        "a=1=2",
        "a=",
        "a",
        "=1",
        "a=\t1",
        "a=é",
        f"{K}k=1",
        f"a={V}v",
        ",".join(f"k{n}=1" for n in range(33)),
        ["a=1"] * 33,
        "a=1" + "," * 20_000,
    ],
)
def test_an_illegal_tracestate_does_not_end_the_trace(provider: TracerProvider, tracestate: str | list[str]) -> None:
    assert state(provider, tracestate) is None
    assert trace_and_flags(provider, traceparent=PARENT, tracestate=tracestate) == (TRACE_ID, "01")


@pytest.mark.parametrize(
    ("members", "kept"),
    [
        ([f"k{n}={'v' * 60}" for n in range(32)], slice(8)),
        ([f"a={'v' * 250}", f"b={'v' * 250}", "c=1", "d=23456"], [0, 2, 3]),
        (["a=1", f"{K}={V}", "b=1"], [0, 2]),
        ([f"a={'v' * 124}", *(f"k{n:02}={'v' * 60}" for n in range(9))], [*range(6)]),
    ],
)
def test_a_long_tracestate_loses_large_members_first(
    provider: TracerProvider, members: list[str], kept: slice | list[int]
) -> None:
    expected = members[kept] if isinstance(kept, slice) else [members[number] for number in kept]
    assert state(provider, ",".join(members)) == ",".join(expected)
