"""Where in a trace something belongs: the ids that records, rows and receipts carry."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TraceRef:
    trace_id: str  # 32 lower-case hex digits
    span_id: str  # 16
    sampled: bool
