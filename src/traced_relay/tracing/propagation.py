"""
Propagation of a trace through Cloud Tasks.

A task carries its context twice, because Google's front ends replace the parent in `traceparent`; the relay's own
copy decides which span is the parent.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from msgspec import Struct
from opentelemetry import trace
from opentelemetry.context import Context, create_key, get_value, set_value
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState, format_span_id, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from traced_relay.formats.trace_context import COPY, TraceContext

if TYPE_CHECKING:
    from collections.abc import Mapping

# W3C asks for at least 512; one member may have 513. A task carries it twice, and a server takes 8 kB of headers.
LONGEST_STATE = 513
_LARGE_MEMBER = 128


def trace_context(context: Context | None = None) -> TraceContext:
    """The context of the span in *context*, or of the current span, as a row keeps it."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, context)
    if state := _shortened(carrier.pop("tracestate", "")):
        carrier["tracestate"] = state
    span = trace.get_current_span(context).get_span_context()
    return TraceContext(carrier, format_trace_id(span.trace_id), format_span_id(span.span_id), span.trace_flags.sampled)


def task_headers(context: Context | None = None) -> dict[str, str]:
    """The headers of a task or request that continues *context*, or the current one."""
    return trace_context(context).task_headers()


def _shortened(state: str) -> str:
    """*state* without whole members, large ones first, then from the end (W3C Trace Context)."""
    members = state.split(",")
    while len(state) > LONGEST_STATE:
        large = [number for number, member in enumerate(members) if len(member) > _LARGE_MEMBER]
        del members[(large or [-1])[-1]]
        state = ",".join(members)
    return state


_ARRIVED = create_key("relay-arrived")

_KNOWN_FLAGS = TraceFlags.SAMPLED | TraceFlags.RANDOM_TRACE_ID
_MEMBER = re.compile(
    r"([a-z0-9][a-z0-9_*/@-]{0,255})=([\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e])"
)
_MOST_MEMBERS, _LONGEST_MEMBER = 32, 513
_LONGEST_REMEMBERED = 1200  # characters

logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)  # it logs headers that it cannot parse


class _State(TraceState):
    """Accepts Level 2 keys, which OpenTelemetry's class refuses together with all other members."""

    def __init__(self, members: Mapping[str, str]) -> None:
        super().__init__()
        self._dict.update(members)


class _Arrived(Struct, frozen=True):
    """
    What a request carried.

    *parent* is the span that it continues; *is_own*: the relay's own copy named it. *platform* is the parent that the
    platform put in place of the relay's.
    """

    parent: SpanContext
    is_own: bool = False
    is_rewritten: bool = False
    platform: SpanContext | None = None


_NONE = _Arrived(trace.INVALID_SPAN_CONTEXT)


class RelayPropagator(TextMapPropagator):
    """
    OpenTelemetry's propagator, with the flags and the `tracestate` of W3C's Trace Context Level 2.

    It prefers the relay's own copy of the context to a `traceparent` that the platform may have rewritten, and writes
    no copy: tasks carry it, other calls never do. It clears flags that have no meaning yet, with spans off too: the
    relay sends version 00.
    """

    def extract(
        self, carrier: CarrierT, context: Context | None = None, getter: Getter[CarrierT] = default_getter
    ) -> Context:
        given = context if context is not None else Context()
        parent, own = _read(carrier, getter), _read(carrier, getter, COPY)
        if own is None:
            arrived = _Arrived(parent or trace.get_current_span(given).get_span_context())
        else:
            is_rewritten = parent is None or not _same_span(parent, own)
            arrived = _Arrived(own, is_own=True, is_rewritten=is_rewritten, platform=parent if is_rewritten else None)
        read = set_value(_ARRIVED, arrived, given)
        continued = own or parent
        return read if continued is None else trace.set_span_in_context(NonRecordingSpan(continued), read)

    def inject(
        self, carrier: CarrierT, context: Context | None = None, setter: Setter[CarrierT] = default_setter
    ) -> None:
        _W3C.inject(carrier, context, setter)

    @property
    def fields(self) -> set[str]:
        return _W3C.fields


def _read(carrier: CarrierT, getter: Getter[CarrierT], prefix: str = "") -> SpanContext | None:
    """The span that *carrier* names under *prefix*; None if it names none."""
    lines = getter.get(carrier, f"{prefix}traceparent")
    if not lines:
        return None
    state = ",".join(getter.get(carrier, f"{prefix}tracestate") or ())
    is_long = len(lines[0]) + len(state) > _LONGEST_REMEMBERED
    return (_parsed.__wrapped__ if is_long else _parsed)(lines[0], state)


@lru_cache(maxsize=1024)
def _parsed(traceparent: str, tracestate: str) -> SpanContext | None:
    """The span of the two headers. A dispatch brings them twice, and its row has them once more."""
    parent = trace.get_current_span(_W3C.extract({"traceparent": traceparent}, Context())).get_span_context()
    if not parent.is_valid:
        return None
    flags = TraceFlags(parent.trace_flags & _KNOWN_FLAGS)
    return SpanContext(parent.trace_id, parent.span_id, True, flags, _State(_members(tracestate)))


def _members(text: str) -> dict[str, str]:
    """The members of *text* in order, the first of each key; empty if one is malformed or there are too many."""
    if len(text) > _MOST_MEMBERS * (_LONGEST_MEMBER + 1):
        return {}
    listed = [member.strip(" \t") for member in text.split(",")]
    read = [_MEMBER.fullmatch(member) for member in listed if member]
    members: dict[str, str] = {}
    for match in read[: _MOST_MEMBERS + 1]:
        if match is None or len(read) > _MOST_MEMBERS:
            return {}
        members.setdefault(match[1], match[2])
    return members


_W3C = TraceContextTextMapPropagator()
PROPAGATOR = RelayPropagator()  # no baggage, in or out


def _arrived(context: Context | None) -> _Arrived:
    found = get_value(_ARRIVED, context)
    return found if isinstance(found, _Arrived) else _NONE


def rewritten(context: Context | None = None) -> bool:
    """Whether the platform changed or dropped the `traceparent` that the relay had sent."""
    return _arrived(context).is_rewritten


def has_own_copy(context: Context | None = None) -> bool:
    """Whether the context came from the relay's own copy, so that its flag is the decision taken at enqueue."""
    return _arrived(context).is_own


def platform_span(context: Context | None = None) -> SpanContext | None:
    """The parent that the platform put in place of the relay's; None if it did not."""
    return _arrived(context).platform


def parent_context(carrier: Mapping[str, str]) -> Context:
    """The context that *carrier*, the headers of a task as they were stored, names; the current one plays no part."""
    return PROPAGATOR.extract({name.lower(): value for name, value in carrier.items()}, Context())


class Arrival(Struct, frozen=True):
    """
    How a dispatch belongs to the trace of its task.

    *parent* is the context under which the attempt's span starts, None for the current one; *links* are that span's.
    The `started` span is under *send*, None for the attempt's span. *is_rewritten*: the task came with another
    context than the relay gave it.
    """

    parent: Context | None
    links: tuple[SpanContext, ...]
    send: Context | None
    is_rewritten: bool


def arrival(task: TraceContext, *, is_old: bool) -> Arrival:
    """
    How the current dispatch belongs to the trace of *task*.

    The attempt's span starts under the dispatch; under the `send` itself, where the dispatch came with another
    context; in a trace of its own, where *is_old*.
    """
    here, remote = trace.get_current_span().get_span_context(), _arrived(None).parent
    send = _read(task.carrier, default_getter) or trace.INVALID_SPAN_CONTEXT
    # The trace id alone says little: where the relay's copy is lost, a front end's parent is of the same trace, and
    # its flag another decision.
    came_from_send = _same_span(here, send) or (_same_span(remote, send) and remote.trace_flags.sampled == task.sampled)
    is_rewritten = rewritten() or not came_from_send
    if is_old:
        return Arrival(Context(), (send,), None, is_rewritten)
    context = trace.set_span_in_context(NonRecordingSpan(send), Context())
    if came_from_send:
        return Arrival(None, (), context, is_rewritten)
    return Arrival(context, (here,) if here.is_valid else (), context, is_rewritten)


def _same_span(one: SpanContext, other: SpanContext) -> bool:
    return (one.trace_id, one.span_id) == (other.trace_id, other.span_id)
