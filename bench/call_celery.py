"""Celery's job that makes an HTTP request. Runs in the peers' environment."""

from __future__ import annotations

import os

from celery import Celery
from opentelemetry.instrumentation.celery import CeleryInstrumentor

from bench import peer_tracing

peer_tracing.start()
CeleryInstrumentor().instrument()  # type: ignore[no-untyped-call]

app = Celery("bench", broker=os.environ["BENCH_BROKER"], backend=os.environ["BENCH_BROKER"])
app.conf.broker_connection_retry_on_startup = True
app.conf.task_acks_late = True  # a job outlives its worker, as with the others
app.conf.task_reject_on_worker_lost = True

_session = peer_tracing.session()


@app.task(name="call")
def call() -> dict[str, object]:
    return peer_tracing.call(_session)


def enqueue() -> bytes:
    """The key of the result in Redis."""
    return bytes(app.backend.get_key_for_task(call.apply_async(ignore_result=False).id))
