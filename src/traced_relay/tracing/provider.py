"""Where spans come from: one provider a process, with the limits that Cloud Trace sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import propagate
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from traced_relay.tracing.guard import GuardedProvider
from traced_relay.tracing.propagation import PROPAGATOR

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Tracer

_SERVICE = "traced-relay"
_LIMITS = SpanLimits(max_attributes=32, max_attribute_length=256)


def configure(
    *, version: str, instance: str, processors: Iterable[SpanProcessor] = (), ratio: float = 1.0
) -> TracerProvider:
    """
    Make the provider, and how context is read and written the process's own.

    A parent's "not sampled" is not believed: front ends send it with every request that nobody traced. The ratio goes
    by trace id, so that all who see a trace decide alike. The provider is passed on by hand and shut down by whoever
    made it; the global one is left to the process's owner.
    """
    propagate.set_global_textmap(PROPAGATOR)
    by_ratio = TraceIdRatioBased(ratio)
    provider = TracerProvider(
        sampler=ParentBased(by_ratio, remote_parent_not_sampled=by_ratio),
        resource=Resource.create(
            {"service.name": _SERVICE, "service.version": version, "service.instance.id": instance}
        ),
        span_limits=_LIMITS,
        shutdown_on_exit=False,
    )
    for processor in processors:
        provider.add_span_processor(processor)
    return provider


def tracer_of(provider: TracerProvider) -> Tracer:
    return GuardedProvider(provider, start=lambda _, attributes: attributes).get_tracer(_SERVICE)
