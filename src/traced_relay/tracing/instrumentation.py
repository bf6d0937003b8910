"""Spans for what comes in and goes out, from OpenTelemetry's instrumentations of Flask and requests."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import attach, create_key, detach, get_value, set_value
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.instrumentation.utils import suppress_http_instrumentation

from traced_relay.tracing.attributes import ARRIVALS, RESEND_COUNT, TRACE_REWRITTEN, URL_FULL
from traced_relay.tracing.propagation import platform_span, rewritten
from traced_relay.tracing.redaction import RedactingProvider, RedactingSpan

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from flask import Flask
    from opentelemetry.trace import Span, TracerProvider
    from opentelemetry.util.types import AttributeValue

_GOOGLE_CREDENTIALS = (
    r"^https?://(oauth2\.googleapis\.com|metadata\.google\.internal|169\.254\.169\.254|iamcredentials\.googleapis\.com"
    r"|secretmanager\.googleapis\.com|accounts\.google\.com/o/oauth2|www\.googleapis\.com/oauth2)(:\d+)?(/|$)"
)
_OPT_IN = "OTEL_SEMCONV_STABILITY_OPT_IN"
_CALLING = create_key("relay-calling")


@dataclass(frozen=True)
class _Calling:
    resend_count: int
    trace_leaves: bool
    whole_url: bool


_PLAIN_CALL = _Calling(resend_count=0, trace_leaves=True, whole_url=True)


def instrument(app: Flask, provider: TracerProvider) -> None:
    """
    Make SERVER spans for what *app* relays and CLIENT spans for what `requests` sends, all from *provider*.

    Patching `requests` holds for the process: the last provider gets its spans. An instrumentation that *app* or
    `requests` already has is undone first, since a second one would be ignored.
    """
    _use_stable_names()
    if getattr(app, "_is_instrumented_by_opentelemetry", False):
        FlaskInstrumentor.uninstrument_app(app)  # type: ignore[no-untyped-call]
    FlaskInstrumentor.instrument_app(  # type: ignore[no-untyped-call]
        app,
        request_hook=_arrived,
        tracer_provider=RedactingProvider(provider, start=_server_attributes),
        excluded_urls="",  # none; without it the environment decides
        enable_commenter=False,
    )
    outgoing = RequestsInstrumentor()
    if outgoing.is_instrumented_by_opentelemetry:
        outgoing.uninstrument()
    outgoing.instrument(
        tracer_provider=RedactingProvider(provider, start=_client_attributes, hidden=_trace_stays),
        excluded_urls=_GOOGLE_CREDENTIALS,
    )


def refuse() -> None:
    """Leave no span of the request that is being answered."""
    span = trace.get_current_span()
    if isinstance(span, RedactingSpan):
        span.refuse()


@contextmanager
def unseen() -> Iterator[None]:
    """What is sent inside makes no span: who only looks on should not be seen."""
    with suppress_http_instrumentation():
        yield


@contextmanager
def calling(*, attempt: int = 1, trace_leaves: bool = True, whole_url: bool = True) -> Iterator[None]:
    """
    Tell the CLIENT spans of what is sent inside which attempt they belong to.

    Without *trace_leaves* the other side gets no `traceparent`; without *whole_url* the span names the origin alone.
    """
    call = _Calling(resend_count=attempt - 1, trace_leaves=trace_leaves, whole_url=whole_url)
    token = attach(set_value(_CALLING, call))
    try:
        yield
    finally:
        detach(token)


def _use_stable_names() -> None:
    # The instrumentations read this from the environment and nowhere else, once, before the first span.
    given = os.environ.get(_OPT_IN, "").split(",")
    others = (name for name in given if name.strip() and not name.strip().startswith("http"))
    os.environ[_OPT_IN] = ",".join(["http", *others])


def _server_attributes(name: str, attributes: Mapping[str, AttributeValue]) -> Mapping[str, AttributeValue] | None:
    return attributes if name in ARRIVALS else None


def _client_attributes(_: str, attributes: Mapping[str, AttributeValue]) -> Mapping[str, AttributeValue]:
    call = _call()
    known = dict(attributes)
    if call.resend_count > 0:
        known[RESEND_COUNT] = call.resend_count
    if not call.whole_url and URL_FULL in known:
        known[URL_FULL] = _origin(str(known[URL_FULL]))
    return known


def _origin(url: str) -> str:
    return "/".join([*url.split("/", 3)[:3], ""])


def _trace_stays() -> bool:
    return not _call().trace_leaves


def _call() -> _Calling:
    found = get_value(_CALLING)
    return found if isinstance(found, _Calling) else _PLAIN_CALL


def _arrived(span: Span, _: Mapping[str, Any]) -> None:
    span.set_attribute(TRACE_REWRITTEN, rewritten())
    if (platform := platform_span()) is not None:
        span.add_link(platform)
