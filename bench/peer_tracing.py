"""OpenTelemetry as a peer's documentation sets it up: batches over OTLP/HTTP. Runs in the peers' environment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

if TYPE_CHECKING:
    from requests import Session

THREADS = 8
BODY = b'{"report":7}'


def start() -> None:
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=os.environ["BENCH_SPANS"])))
    trace.set_tracer_provider(provider)
    RequestsInstrumentor().instrument()


def session() -> Session:
    from requests import Session
    from requests.adapters import HTTPAdapter

    made = Session()
    made.mount("http://", HTTPAdapter(pool_maxsize=THREADS))
    return made


def call(session: Session) -> dict[str, object]:
    """The job: one HTTP request; its status and body are the result that is kept."""
    answer = session.post(os.environ["BENCH_URL"], data=BODY, headers={"content-type": "application/json"}, timeout=60)
    answer.raise_for_status()
    return {"status": answer.status_code, "body": answer.text}
