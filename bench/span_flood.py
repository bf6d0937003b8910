"""
Many spans through the batch processor of otel.yaml: how much memory they leave in use.

`python -m bench.span_flood ENDPOINT COUNT` prints the MB before them and after.
"""

from __future__ import annotations

import io
import json
import os
import sys
from typing import TYPE_CHECKING

from opentelemetry.context import Context

from bench.footprint import memory
from bench.processes import ROOT
from traced_relay.logs import writer
from traced_relay.tracing import provider
from traced_relay.tracing.pipeline import telemetry

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

WARMING = 3000  # more than the outbox holds


def _flood(count: int) -> tuple[float, float]:
    log = writer.Log(writer.Identity("bench", "v", "i"), stream=io.StringIO())
    sending = telemetry(ROOT / "otel.yaml", log, project="bench", is_local=True)
    tracer = provider.tracer_of(sending.provider)
    _make(tracer, WARMING)
    before = memory(os.getpid())
    _make(tracer, count)
    after = memory(os.getpid())
    sending.close()
    return before / 1024, after / 1024


def _make(tracer: Tracer, count: int) -> None:
    for number in range(count):
        with tracer.start_as_current_span("process relay", Context()) as span:
            span.set_attribute("messaging.message.id", f"{number:032x}")
            span.set_attribute("relay.verdict", "succeeded")


if __name__ == "__main__":
    os.environ["RELAY_TRACE_ENDPOINT"] = sys.argv[1]
    print(json.dumps(_flood(int(sys.argv[2]))))
