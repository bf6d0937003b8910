"""Finished spans as plain values, and the trees that they form."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from traced_relay.tracing.attributes import MESSAGE_ID

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True)
class FinishedSpan:
    name: str
    kind: str  # SERVER, PRODUCER, CONSUMER, CLIENT or INTERNAL
    trace_id: str
    span_id: str
    parent_id: str | None
    start: float  # seconds since the epoch
    end: float
    status: str = "UNSET"  # UNSET, OK or ERROR
    attributes: Mapping[str, object] = field(default_factory=dict)
    links: tuple[tuple[str, str], ...] = ()  # (trace id, span id)

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True)
class SpanNode:
    span: FinishedSpan
    children: tuple[SpanNode, ...] = ()


def tree_of(spans: Iterable[FinishedSpan]) -> tuple[SpanNode, ...]:
    """The roots with their children, in order of time; a span whose parent is missing is a root."""
    by_start = sorted(spans, key=lambda span: span.start)
    known = {span.span_id for span in by_start}
    under: defaultdict[str | None, list[FinishedSpan]] = defaultdict(list)
    for span in by_start:
        under[span.parent_id if span.parent_id in known else None].append(span)

    def nodes(parent: str | None) -> tuple[SpanNode, ...]:
        return tuple(SpanNode(span, nodes(span.span_id)) for span in under[parent])

    return nodes(None)


def of_task(spans: Iterable[FinishedSpan], task_id: str) -> list[FinishedSpan]:
    """The spans of one task, with parents and descendants: a trace may contain several tasks."""
    every = list(spans)
    named = [span for span in every if span.attributes.get(MESSAGE_ID) == task_id]
    chosen = {span.span_id for span in named} | {span.parent_id for span in named}
    count = 0
    while count != len(chosen):
        count = len(chosen)
        chosen |= {span.span_id for span in every if span.parent_id in chosen and _may_belong(span, task_id)}
    return [span for span in every if span.span_id in chosen]


def _may_belong(span: FinishedSpan, task_id: str) -> bool:
    return span.attributes.get(MESSAGE_ID, task_id) == task_id
