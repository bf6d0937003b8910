"""
The trace's way through Cloud Tasks.

A task carries its context twice, because Google's front ends replace the parent in `traceparent`; the relay's own
copy decides who the parent is.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context, create_key, get_value, set_value
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COPY = "x-relay-"


# W3C asks for at least 512; one member may have 513. A task carries it twice, and a server takes 8 kB of headers.
LONGEST_STATE = 513


_LARGE_MEMBER = 128


W3C = TraceContextTextMapPropagator()


def task_headers(context: Context | None = None) -> dict[str, str]:
    """The headers a task carries: the context in the standard's form, and the relay's own copy."""
    standard: dict[str, str] = {}
    W3C.inject(standard, context)
    if state := _shortened(standard.pop("tracestate", "")):
        standard["tracestate"] = state
    return standard | {COPY + name: value for name, value in standard.items()}


def _shortened(state: str) -> str:
    """Remove whole members, the last one first, and large ones before all others, as W3C says."""
    members = state.split(",")
    while len(state) > LONGEST_STATE:
        large = [number for number, member in enumerate(members) if len(member) > _LARGE_MEMBER]
        del members[(large or [-1])[-1]]
        state = ",".join(members)
    return state


_REWRITTEN = create_key("relay-trace-rewritten")
_PLATFORM_SPAN = create_key("relay-platform-span")
_OWN_COPY = create_key("relay-own-copy")
_PARENT = create_key("relay-parent")

_KNOWN_FLAGS = TraceFlags.SAMPLED | TraceFlags.RANDOM_TRACE_ID
_MEMBER = re.compile(
    r"([a-z0-9][a-z0-9_*/@-]{0,255})=([\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e])"
)
_MOST_MEMBERS, _LONGEST_MEMBER = 32, 513

logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)  # it quotes the headers that it cannot read


class _State(TraceState):
    """OpenTelemetry's class knows the keys of Level 1 alone, and refuses all members for one key or one duplicate."""

    def __init__(self, members: Mapping[str, str]) -> None:
        super().__init__()
        self._dict.update(members)


class _Level2(TraceContextTextMapPropagator):
    """
    OpenTelemetry's propagator, with what W3C's Trace Context Level 2 says of flags and of `tracestate`.

    Flags that have no meaning yet are cleared, with spans off too: what leaves is version 00.
    """

    def extract(
        self, carrier: CarrierT, context: Context | None = None, getter: Getter[CarrierT] = default_getter
    ) -> Context:
        given = context if context is not None else Context()
        read = super().extract({"traceparent": getter.get(carrier, "traceparent") or ""}, Context())
        parent = trace.get_current_span(read).get_span_context()
        if not parent.is_valid:
            return given
        known = SpanContext(
            parent.trace_id,
            parent.span_id,
            is_remote=True,
            trace_flags=TraceFlags(parent.trace_flags & _KNOWN_FLAGS),
            trace_state=_State(_members(getter.get(carrier, "tracestate") or ())),
        )
        return trace.set_span_in_context(NonRecordingSpan(known), given)


def _members(lines: Sequence[str]) -> dict[str, str]:
    """The members of all *lines* in order, of a key the first; none if there are too many or one is malformed."""
    text = ",".join(lines)
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


_W3C = _Level2()


class RelayOrigin(TextMapPropagator):
    """
    Lets the relay's own copy of the context win over what the platform made of `traceparent`.

    Listed after `tracecontext`. Reads only: the copy is written with a task, never into other calls.
    """

    def extract(
        self, carrier: CarrierT, context: Context | None = None, getter: Getter[CarrierT] = default_getter
    ) -> Context:
        given = context if context is not None else Context()
        names = ("traceparent", "tracestate")
        copy = {name: found for name in names if (found := getter.get(carrier, COPY + name))}
        origin = trace.get_current_span(_W3C.extract(copy, Context()))
        if not origin.get_span_context().is_valid:
            return set_value(_PARENT, trace.get_current_span(given).get_span_context(), given)
        seen = set_value(_OWN_COPY, True, set_value(_PARENT, origin.get_span_context(), given))
        platform = trace.get_current_span(seen).get_span_context()
        if _same_span(platform, origin.get_span_context()):
            return trace.set_span_in_context(origin, seen)
        kept = set_value(_REWRITTEN, True, trace.set_span_in_context(origin, seen))
        return set_value(_PLATFORM_SPAN, platform, kept) if platform.is_valid else kept

    def inject(
        self, carrier: CarrierT, context: Context | None = None, setter: Setter[CarrierT] = default_setter
    ) -> None:
        """Nothing: see the class."""

    @property
    def fields(self) -> set[str]:
        return set()


PROPAGATOR = CompositePropagator([_W3C, RelayOrigin()])  # no baggage, in or out


def rewritten(context: Context | None = None) -> bool:
    """Whether the platform changed or dropped the `traceparent` that the relay had sent."""
    return bool(get_value(_REWRITTEN, context))


def has_own_copy(context: Context | None = None) -> bool:
    """Whether the context was read from the relay's own copy, so that its flag is what was decided at enqueue."""
    return bool(get_value(_OWN_COPY, context))


def platform_span(context: Context | None = None) -> SpanContext | None:
    """The parent that the platform put in place of ours; None if it did not."""
    found = get_value(_PLATFORM_SPAN, context)
    return found if isinstance(found, SpanContext) else None


def parent_context(carrier: Mapping[str, str]) -> Context:
    """Go on with a trace from *carrier*, the headers of a task as they were stored, whatever runs at the moment."""
    return PROPAGATOR.extract({name.lower(): value for name, value in carrier.items()}, Context())


@dataclass(frozen=True)
class SpanParent:
    """Where an attempt's span begins, in *context* or the current one; what it *links* to; what its *mark* is under."""

    context: Context | None
    links: tuple[SpanContext, ...]
    mark: Context | None


def span_parent(carrier: Mapping[str, str], *, is_old: bool) -> SpanParent:
    """
    Where to go on with the trace of a task, whose first `send` wrote *carrier*.

    Under the dispatch; under the `send` itself, where that dispatch came with another context; in a trace of its
    own, where the task's *is_old*.
    """
    context = parent_context(carrier)
    send = trace.get_current_span(context).get_span_context()
    here = trace.get_current_span().get_span_context()
    if is_old:
        return SpanParent(Context(), (send,), None)
    if _came_from(send):
        return SpanParent(None, (), context)
    return SpanParent(context, (here,) if here.is_valid else (), context)


def has_context(carrier: Mapping[str, str]) -> bool:
    """Whether the request that is being answered came with that context, or made it, as the first of a bare task."""
    return _came_from(trace.get_current_span(parent_context(carrier)).get_span_context())


def _came_from(send: SpanContext) -> bool:
    """
    By span and decision.

    The trace id alone says little: where the relay's copy is lost, a front end's parent is of the same trace, and
    its flag another decision.
    """
    if _same_span(trace.get_current_span().get_span_context(), send):
        return True
    parent = get_value(_PARENT)
    if not isinstance(parent, SpanContext):
        return False
    return _same_span(parent, send) and parent.trace_flags.sampled == send.trace_flags.sampled


def _same_span(one: SpanContext, other: SpanContext) -> bool:
    return (one.trace_id, one.span_id) == (other.trace_id, other.span_id)
