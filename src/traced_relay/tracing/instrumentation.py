"""SERVER spans as OpenTelemetry's instrumentation of Flask writes them, and CLIENT spans from that of requests."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import attach, create_key, detach, get_value, set_value
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import Link, SpanKind, StatusCode

from traced_relay.tracing.attributes import ARRIVALS, ERROR_TYPE, RESEND_COUNT, TRACE_REWRITTEN, URL_FULL
from traced_relay.tracing.propagation import PROPAGATOR, platform_span, rewritten
from traced_relay.tracing.tracer import CurrentSpan, InstrumentationProvider, RelaySpan, RelayTracer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from flask import Flask
    from opentelemetry.trace import Tracer, TracerProvider
    from opentelemetry.util.types import AttributeValue

_GOOGLE_CREDENTIALS = (
    r"^https?://(oauth2\.googleapis\.com|metadata\.google\.internal|169\.254\.169\.254|iamcredentials\.googleapis\.com"
    r"|secretmanager\.googleapis\.com|accounts\.google\.com/o/oauth2|www\.googleapis\.com/oauth2)(:\d+)?(/|$)"
)
_OPT_IN = "OTEL_SEMCONV_STABILITY_OPT_IN"
_CALLING = create_key("relay-calling")


@dataclass(frozen=True)
class _Calling:
    resend_count: int = 0
    propagate: bool = True
    full_url: bool = True


def instrument(app: Flask, provider: TracerProvider) -> None:
    """
    Create SERVER spans for *app*'s tasks and dispatches and CLIENT spans for `requests`, all from *provider*.

    `requests` is patched for the whole process, so the last provider gets its spans. An existing instrumentation of
    *app* or `requests` is removed first, since OpenTelemetry would ignore a second one.
    """
    _use_stable_conventions()
    if getattr(app, "_is_instrumented_by_opentelemetry", False):
        FlaskInstrumentor.uninstrument_app(app)  # type: ignore[no-untyped-call]
    traced: Any = app  # mypy lets nobody replace a method
    inner = traced.wsgi_app.app if isinstance(traced.wsgi_app, ServerSpans) else traced.wsgi_app
    traced.wsgi_app = ServerSpans(inner, RelayTracer(provider, "opentelemetry.instrumentation.flask"))
    outgoing = RequestsInstrumentor()
    if outgoing.is_instrumented_by_opentelemetry:
        outgoing.uninstrument()
    outgoing.instrument(
        tracer_provider=InstrumentationProvider(provider, start=_client_attributes, hidden=_is_hidden),
        excluded_urls=_GOOGLE_CREDENTIALS,
    )


def discard_current_span() -> None:
    """Export nothing of the current span, for example because its request is refused."""
    span = trace.get_current_span()
    if isinstance(span, RelaySpan):
        span.discard()


@contextmanager
def calling(*, attempt: int = 1, propagate: bool = True, full_url: bool = True) -> Iterator[None]:
    """
    Set the attempt that CLIENT spans inside belong to.

    Without *propagate* the request carries no `traceparent`; without *full_url* the span has only the origin.
    """
    call = _Calling(resend_count=attempt - 1, propagate=propagate, full_url=full_url)
    token = attach(set_value(_CALLING, call))
    try:
        yield
    finally:
        detach(token)


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
        path = environ["PATH_INFO"]
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
        known = {name: value for name, value in attributes.items() if value not in (None, "")}
        span = self._tracer.start_span(name, context, SpanKind.SERVER, known, [Link(platform)] if platform else ())

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            code = int(status[:3])
            span.set_attribute("http.response.status_code", code)
            if code >= HTTPStatus.INTERNAL_SERVER_ERROR:
                span.set_attribute(ERROR_TYPE, str(code))
                span.set_status(StatusCode.ERROR)
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


def _client_attributes(_: str, attributes: Mapping[str, AttributeValue]) -> Mapping[str, AttributeValue]:
    call = _call()
    known = dict(attributes)
    if call.resend_count > 0:
        known[RESEND_COUNT] = call.resend_count
    if not call.full_url and URL_FULL in known:
        known[URL_FULL] = _origin(str(known[URL_FULL]))
    return known


def _origin(url: str) -> str:
    return "/".join([*url.split("/", 3)[:3], ""])


def _is_hidden() -> bool:
    return not _call().propagate


def _call() -> _Calling:
    found = get_value(_CALLING)
    return found if isinstance(found, _Calling) else _Calling()
