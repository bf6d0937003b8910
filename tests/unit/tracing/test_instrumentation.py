"""The relay's spans beside those of OpenTelemetry's instrumentations of Flask and requests, for the same requests."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import requests
from flask import Flask, abort
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from requests.adapters import HTTPAdapter

from support.raw_downstream import RawDownstream, says
from traced_relay.tracing import instrumentation
from traced_relay.tracing.instrumentation import ClientSpans
from traced_relay.tracing.provider import create_provider, tracer_of
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
    assert_equal(ours, theirs)


def test_a_path_is_that_which_flask_routes() -> None:
    span = span_of(by_the_relay, "/v1/tasks", {"environ_overrides": {"PATH_INFO": "//v1/tasks"}})
    assert (span.name, (span.attributes or {})["url.path"]) == ("POST /v1/tasks", "/v1/tasks")


def assert_equal(ours: ReadableSpan, theirs: ReadableSpan) -> None:
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


def client_spans(url: str, method: str) -> tuple[ReadableSpan, ReadableSpan, dict[str, str], dict[str, str]]:
    """The relay's span of a request, the instrumentation's, and the headers that each of them added."""
    kept, provider = Kept(), create_provider(version="v", instance="i")
    provider.add_span_processor(kept)
    instrumentation.instrument(Flask("sends"), provider)
    sent = [requests.Request(method, url).prepare() for _ in range(2)]
    with tracer_of(provider).start_as_current_span("process"):
        with suppress(requests.RequestException), ClientSpans(provider).of(sent[0]) as responded:
            responded(HTTPAdapter().send(sent[0], timeout=5))
        with suppress(requests.RequestException), requests.Session() as session:
            session.send(sent[1], timeout=5)
    ours, theirs, _ = kept.spans
    added = [{name: value for name, value in one.headers.items() if name.startswith("trace")} for one in sent]
    return ours, theirs, added[0], added[1]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("status", [b"HTTP/1.1 200 OK", b"HTTP/1.0 204 OK", b"HTTP/1.1 404 No", b"HTTP/1.1 503 No"])
def test_a_client_span_equals_the_instrumentations(method: str, status: bytes) -> None:
    with RawDownstream(says(status, b"\r\nContent-Length: 0\r\n\r\n")) as downstream:
        ours, theirs, own_headers, their_headers = client_spans(
            f"http://127.0.0.1:{downstream.port}/work?token=secret", method
        )
    assert_equal(ours, theirs)
    assert [value[:36] for value in own_headers.values()] == [value[:36] for value in their_headers.values()]


def test_a_failed_client_span_equals_the_instrumentations() -> None:
    ours, theirs, _, _ = client_spans("http://127.0.0.1:1/", "GET")
    assert_equal(ours, theirs)
