"""SERVER and CLIENT spans from OpenTelemetry's instrumentations of Flask and requests."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import attach, create_key, detach, get_value, set_value
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor

from traced_relay.tracing.attributes import ARRIVALS, RESEND_COUNT, TRACE_REWRITTEN, URL_FULL
from traced_relay.tracing.propagation import platform_span, rewritten
from traced_relay.tracing.tracer import InstrumentationProvider, RelaySpan

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
    FlaskInstrumentor.instrument_app(  # type: ignore[no-untyped-call]
        app,
        request_hook=_add_arrival,
        tracer_provider=InstrumentationProvider(provider, start=_server_attributes),
        excluded_urls="",  # none; the default is read from the environment
        enable_commenter=False,
    )
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


def _server_attributes(name: str, attributes: Mapping[str, AttributeValue]) -> Mapping[str, AttributeValue] | None:
    return attributes if name in ARRIVALS else None


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


def _add_arrival(span: Span, _: Mapping[str, Any]) -> None:
    span.set_attribute(TRACE_REWRITTEN, rewritten())
    if (platform := platform_span()) is not None:
        span.add_link(platform)
