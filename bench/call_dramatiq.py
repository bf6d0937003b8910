"""Dramatiq's job that makes an HTTP request. Runs in the peers' environment."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from opentelemetry import propagate, trace

from bench import peer_tracing

peer_tracing.start()
_tracer = trace.get_tracer("bench")


class Tracing(dramatiq.Middleware):
    """OpenTelemetry has no instrumentation of Dramatiq: the two spans that Celery's instrumentation makes."""

    def __init__(self) -> None:
        self._open: dict[str, ExitStack] = {}

    def before_process_message(self, _: dramatiq.Broker, message: dramatiq.Message[Any]) -> None:
        parent = propagate.extract(message.options.get("trace", {}))
        span = self._open[message.message_id] = ExitStack()
        attributes = {"messaging.message.id": message.message_id, "messaging.destination.name": message.queue_name}
        span.enter_context(
            _tracer.start_as_current_span(
                f"run/{message.actor_name}", parent, kind=trace.SpanKind.CONSUMER, attributes=attributes
            )
        )

    def after_process_message(self, _: dramatiq.Broker, message: dramatiq.Message[Any], **__: Any) -> None:
        self._open.pop(message.message_id).close()


broker = RedisBroker(url=os.environ["BENCH_BROKER"])
_results = RedisBackend(url=os.environ["BENCH_BROKER"])
broker.add_middleware(Results(backend=_results))
broker.add_middleware(Tracing())
dramatiq.set_broker(broker)

_session = peer_tracing.session()


@dramatiq.actor(store_results=True, max_retries=5)
def call() -> dict[str, object]:
    return peer_tracing.call(_session)


def enqueue() -> bytes:
    """The key of the result in Redis."""
    with _tracer.start_as_current_span("apply_async/call", kind=trace.SpanKind.PRODUCER):
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        message = call.send_with_options(trace=carrier)
    return _results.build_message_key(message).encode()
