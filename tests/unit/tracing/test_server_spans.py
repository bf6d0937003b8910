"""The relay's SERVER spans beside those of OpenTelemetry's instrumentation of Flask, for the same requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask, abort
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from traced_relay.tracing import instrumentation
from traced_relay.tracing.provider import create_provider
from traced_relay.tracing.tracer import InstrumentationProvider

if TYPE_CHECKING:
    from collections.abc import Callable

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Kept(SpanProcessor):
    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def app() -> Flask:
    made = Flask("relay")

    @made.post("/v1/tasks")
    def enqueue() -> tuple[str, int]:
        return "fine", 202

    @made.post("/v1/tasks:batch")
    def batch() -> None:
        abort(422)

    @made.post("/dispatch")
    def dispatch() -> None:
        raise ValueError("a secret")

    return made


def by_the_instrumentation(made: Flask, kept: Kept) -> None:
    provider = create_provider(version="v", instance="i", processors=[kept])
    FlaskInstrumentor.instrument_app(  # type: ignore[no-untyped-call]
        made, tracer_provider=InstrumentationProvider(provider), excluded_urls="", enable_commenter=False
    )


def by_the_relay(made: Flask, kept: Kept) -> None:
    instrumentation.instrument(made, create_provider(version="v", instance="i", processors=[kept]))


def span_of(install: Callable[[Flask, Kept], None], path: str, given: dict[str, Any]) -> ReadableSpan:
    made, kept = app(), Kept()
    install(made, kept)
    made.test_client().post(path, **given)
    [span] = kept.spans
    return span


@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/tasks:batch", "/dispatch"])
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"query_string": "token=secret", "headers": {"User-Agent": "curl", "X-Api-Key": "secret"}},
        {"headers": {"traceparent": TRACE, "tracestate": "a=1"}},
        {"base_url": "https://relay.example.com:8443"},
        {"base_url": "http://[::1]:80", "environ_base": {"REMOTE_ADDR": "::1", "REMOTE_PORT": 50123}},
        {"environ_overrides": {"SERVER_PROTOCOL": "HTTP/1.0", "REMOTE_ADDR": ""}},
    ],
    ids=["plain", "query", "traced", "https", "ipv6", "http1.0"],
)
def test_a_server_span_equals_the_instrumentations(path: str, given: dict[str, Any]) -> None:
    ours, theirs = (span_of(install, path, given) for install in (by_the_relay, by_the_instrumentation))
    own = {name: value for name, value in (ours.attributes or {}).items() if not name.startswith("relay.")}
    assert own == theirs.attributes
    assert (ours.name, ours.kind, ours.parent, ours.links) == (theirs.name, theirs.kind, theirs.parent, theirs.links)
    assert ours.status.status_code is theirs.status.status_code
    assert ours.context is not None
    assert theirs.context is not None
    assert ours.context.trace_flags == theirs.context.trace_flags
    assert ours.context.trace_state == theirs.context.trace_state
    assert ours.instrumentation_scope is not None
    assert theirs.instrumentation_scope is not None
    assert ours.instrumentation_scope.name == theirs.instrumentation_scope.name
