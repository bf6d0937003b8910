"""SERVER and CLIENT spans, as OpenTelemetry's instrumentations of Flask and requests write them."""

from __future__ import annotations

import os
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import Link, SpanKind

from traced_relay.tracing.attributes import ARRIVALS, RESEND_COUNT, TRACE_REWRITTEN, URL_FULL
from traced_relay.tracing.propagation import PROPAGATOR, platform_span, rewritten
from traced_relay.tracing.spans import set_error
from traced_relay.tracing.tracer import CurrentSpan, InstrumentationProvider, RelaySpan, RelayTracer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from flask import Flask
    from opentelemetry.trace import Span, Tracer, TracerProvider
    from opentelemetry.util.types import AttributeValue
    from requests import PreparedRequest, Response

_GOOGLE_CREDENTIALS = (
    r"^https?://(oauth2\.googleapis\.com|metadata\.google\.internal|169\.254\.169\.254|iamcredentials\.googleapis\.com"
    r"|secretmanager\.googleapis\.com|accounts\.google\.com/o/oauth2|www\.googleapis\.com/oauth2)(:\d+)?(/|$)"
)
_OPT_IN = "OTEL_SEMCONV_STABILITY_OPT_IN"


def instrument(app: Flask, provider: TracerProvider) -> None:
    """
    Create SERVER spans for *app*'s tasks and dispatches, and CLIENT spans for what others send with `requests`.

    All are from *provider*; calls to downstreams have ClientSpans. `requests` is patched for the whole process, so the
    last provider gets its spans. An existing instrumentation of *app* or `requests` is removed first, since
    OpenTelemetry would ignore a second one.
    """
    _use_stable_conventions()
    if getattr(app, "_is_instrumented_by_opentelemetry", False):
        from opentelemetry.instrumentation.flask import FlaskInstrumentor

        FlaskInstrumentor.uninstrument_app(app)  # type: ignore[no-untyped-call]
    traced: Any = app  # mypy refuses the assignment to a method
    inner = traced.wsgi_app.app if isinstance(traced.wsgi_app, ServerSpans) else traced.wsgi_app
    traced.wsgi_app = ServerSpans(inner, RelayTracer(provider, "opentelemetry.instrumentation.flask"))
    outgoing = RequestsInstrumentor()
    if outgoing.is_instrumented_by_opentelemetry:
        outgoing.uninstrument()
    outgoing.instrument(
        tracer_provider=InstrumentationProvider(provider),
        meter_provider=NoOpMeterProvider(),
        excluded_urls=_GOOGLE_CREDENTIALS,
    )


def discard_current_span() -> None:
    """Export nothing of the current span, for example because its request is refused."""
    span = trace.get_current_span()
    if isinstance(span, RelaySpan):
        span.discard()


def _use_stable_conventions() -> None:
    # The instrumentations read this only from the environment, once, before the first span.
    given = os.environ.get(_OPT_IN, "").split(",")
    others = (name for name in given if name.strip() and not name.strip().startswith("http"))
    os.environ[_OPT_IN] = ",".join(["http", *others])


class ServerSpans:
    """
    WSGI: a SERVER span for each request that creates or dispatches tasks, with what the Flask instrumentation writes.

    The instrumentation itself also collects what redaction drops and metrics that nothing reads, for every request.
    """

    def __init__(self, app: WSGIApplication, tracer: Tracer) -> None:
        self.app = app
        self._tracer = tracer

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = "/" + environ["PATH_INFO"].lstrip("/")  # as Flask routes it
        name = f"{environ['REQUEST_METHOD']} {path}"
        if name not in ARRIVALS:
            return self.app(environ, start_response)
        context = PROPAGATOR.extract(environ, getter=_environ)
        platform = platform_span(context)
        attributes = {
            "http.request.method": "POST",
            "url.scheme": environ["wsgi.url_scheme"],
            "server.address": environ.get("HTTP_HOST"),
            "server.port": int(environ["SERVER_PORT"]),
            "url.path": path,
            "client.address": environ.get("REMOTE_ADDR"),
            "client.port": environ.get("REMOTE_PORT"),
            "network.protocol.version": environ["SERVER_PROTOCOL"].removeprefix("HTTP/"),
            "http.route": path,
            TRACE_REWRITTEN: rewritten(context),
        }
        links = [Link(platform)] if platform else ()
        span = self._tracer.start_span(name, context, SpanKind.SERVER, _known(attributes), links)

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            code = int(status[:3])
            span.set_attribute("http.response.status_code", code)
            if code >= HTTPStatus.INTERNAL_SERVER_ERROR:
                set_error(span, str(code))
            return start_response(status, headers, *exc_info)

        with CurrentSpan(span, context):
            return self.app(environ, start)


class _Environ(Getter[dict[str, Any]]):
    def get(self, carrier: dict[str, Any], key: str) -> list[str] | None:
        value = carrier.get(f"HTTP_{key.upper().replace('-', '_')}")
        return None if value is None else [value]

    def keys(self, carrier: dict[str, Any]) -> list[str]:
        return list(carrier)


_environ = _Environ()


class ClientSpans:
    """
    CLIENT spans of calls to downstreams, with what the requests instrumentation writes.

    The instrumentation itself parses each URL several times, and collects what redaction drops.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = RelayTracer(provider, "opentelemetry.instrumentation.requests")

    def of(
        self, request: PreparedRequest, *, attempt: int = 1, propagate: bool = True, full_url: bool = True
    ) -> ClientSpan:
        """
        The span of *request*, which starts when the with statement does.

        Without *propagate* the request carries no `traceparent`; without *full_url* the span has only the origin.
        """
        url, method = str(request.url), str(request.method)
        parts = urlsplit(url)
        attributes = {
            "http.request.method": method,
            URL_FULL: url if full_url else f"{parts.scheme}://{parts.netloc}/",
            "server.address": parts.hostname,
            "network.peer.address": parts.hostname,
            "server.port": parts.port,
            "network.peer.port": parts.port,
            RESEND_COUNT: attempt - 1 or None,
        }
        span = self._tracer.start_span(method, kind=SpanKind.CLIENT, attributes=_known(attributes))
        if propagate:
            PROPAGATOR.inject(request.headers, trace.set_span_in_context(span))
        return ClientSpan(span)


class ClientSpan:
    """Ends *span* with the with statement; an exception leaves its class on it."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> Callable[[Response], None]:
        """What to call with the response's head."""
        return self._respond

    def _respond(self, response: Response) -> None:
        code = response.status_code
        self._span.set_attributes(
            {
                "http.response.status_code": code,
                "network.protocol.version": "1.0" if response.raw.version == _HTTP_1_0 else "1.1",
            }
        )
        if code >= HTTPStatus.BAD_REQUEST:
            set_error(self._span, str(code))

    def __exit__(self, _: object, exc: BaseException | None, __: object) -> None:
        if isinstance(exc, Exception):
            set_error(self._span, type(exc).__qualname__)
        self._span.end()


_HTTP_1_0 = 10  # as http.client numbers it


def _known(attributes: Mapping[str, AttributeValue | None]) -> dict[str, AttributeValue]:
    return {name: value for name, value in attributes.items() if value not in (None, "")}
