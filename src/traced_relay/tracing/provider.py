"""Where spans come from: one provider a process, with the limits that Cloud Trace sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import propagate
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.version import __version__ as sdk_version

from traced_relay.tracing.ids_only import IdsOnly
from traced_relay.tracing.otel_yaml import LONGEST_VALUE, MOST_ATTRIBUTES
from traced_relay.tracing.propagation import PROPAGATOR
from traced_relay.tracing.redaction import GuardedProvider
from traced_relay.tracing.sampling import OnceByRatio

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Tracer
    from opentelemetry.trace import TracerProvider as AnyProvider

_SERVICE = "traced-relay"
_SDK = {
    "telemetry.sdk.language": "python",
    "telemetry.sdk.name": "opentelemetry",
    "telemetry.sdk.version": sdk_version,
}
_MOST_LINKS = 128  # OpenTelemetry's own default, of events too


class _Ids(RandomIdGenerator):
    def is_trace_id_random(self) -> bool:
        """Leave that flag out of new traces: older parsers in Go and Rust drop a `traceparent` that ends in 03."""
        return False


def configure(
    *,
    version: str,
    instance: str,
    processors: Iterable[SpanProcessor] = (),
    ratio: float = 1.0,
    attributes: Mapping[str, Any] | None = None,
    most_attributes: int = MOST_ATTRIBUTES,
    longest_value: int = LONGEST_VALUE,
) -> TracerProvider:
    """
    Make the provider, and how context is read and written the process's own.

    The provider is passed on by hand and shut down by whoever made it; the global one is left to the process's owner.
    *attributes* are the resource's, beside what is known here; version and instance are those of the records. Nothing
    is read from the environment.
    """
    propagate.set_global_textmap(PROPAGATOR)
    own = {"service.version": version, "service.instance.id": instance}
    provider = TracerProvider(
        sampler=OnceByRatio(ratio),
        resource=Resource({"service.name": _SERVICE} | dict(attributes or {}) | _SDK | own),
        id_generator=_Ids(),
        span_limits=_limits(most_attributes, longest_value),
        shutdown_on_exit=False,
    )
    for processor in processors:
        provider.add_span_processor(processor)
    return provider


def _limits(attributes: int, length: int) -> SpanLimits:
    """All of them: one that is not given is read from the environment, where it may be another, or nonsense."""
    return SpanLimits(
        max_attributes=attributes,
        max_span_attributes=attributes,
        max_event_attributes=attributes,
        max_link_attributes=attributes,
        max_events=_MOST_LINKS,
        max_links=_MOST_LINKS,
        max_attribute_length=length,
        max_span_attribute_length=length,
    )


def configure_off() -> AnyProvider:
    """The same without any span: what comes in goes out again, and everything has its ids."""
    propagate.set_global_textmap(PROPAGATOR)
    return IdsOnly()


def tracer_of(provider: AnyProvider) -> Tracer:
    return GuardedProvider(provider, start=lambda _, attributes: attributes).get_tracer(_SERVICE)
