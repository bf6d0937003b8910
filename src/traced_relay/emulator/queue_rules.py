"""A queue's configuration: production's defaults, ranges and update masks. Each function returns a new message."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

from google.protobuf.field_mask_pb2 import FieldMask

from traced_relay.emulator import messages as m
from traced_relay.emulator import resource_names
from traced_relay.emulator.backoff import seconds
from traced_relay.emulator.errors import invalid, unimplemented

if TYPE_CHECKING:
    from collections.abc import Iterable

FASTEST, MOST_CONCURRENT = 500, 5000
_DEFAULT_RATES = m.RateLimits(max_dispatches_per_second=500, max_concurrent_dispatches=1000)
_DEFAULT_RETRIES = m.RetryConfig(
    max_attempts=100,
    max_retry_duration=m.Duration(),
    min_backoff=m.Duration(nanos=100_000_000),
    max_backoff=m.Duration(seconds=3600),
    max_doublings=16,
)

_WHOLE = frozenset(("app_engine_routing_override", "rate_limits", "retry_config", "stackdriver_logging_config"))
_OUTPUT_ONLY = frozenset(("name", "state", "purge_time", "rate_limits.max_burst_size"))


def new_queue(requested: m.Queue) -> m.Queue:
    """A new queue: running, with defaults for the fields that *requested* omits."""
    return updated_queue(m.Queue(name=requested.name, state=m.RUNNING), requested, ())


def updated_queue(current: m.Queue, requested: m.Queue, mask: Iterable[str]) -> m.Queue:
    """*current* with the *requested* values for the fields of the *mask*; an empty mask means all fields."""
    queue, source = deepcopy(current), deepcopy(requested)
    paths = sorted((set(mask) or _WHOLE) - _OUTPUT_ONLY)
    for path in paths:
        _check_path(path)
        if path not in _WHOLE:
            getattr(source, path.partition(".")[0]).SetInParent()  # an omitted message resets the named field too
    FieldMask(paths=paths).MergeMessage(source, queue, replace_message_field=True)
    doublings = queue.retry_config.max_doublings
    queue.retry_config.CopyFrom(completed(queue.retry_config, _DEFAULT_RETRIES))
    if "retry_config" not in paths or "retry_config.max_doublings" in paths:
        queue.retry_config.max_doublings = doublings  # 0 stays: it was named, now or before
    if requested.HasField("http_target"):
        raise unimplemented("Queue.http_target")
    _complete_rates(queue.rate_limits)
    check_retry_config(queue.retry_config)
    ratio = queue.stackdriver_logging_config.sampling_ratio
    if not 0 <= ratio <= 1:
        raise invalid("StackdriverLoggingConfig.samplingRatio must be between 0.0 and 1.0.")
    if queue.HasField("app_engine_routing_override"):
        routing = queue.app_engine_routing_override
        routing.host = resource_names.app_engine_host(routing, queue.name)
    return queue


def check_retry_config(config: m.RetryConfig) -> None:
    if config.max_attempts < -1:
        raise invalid("RetryConfig.maxAttempts must be greater or equal to -1.")
    if config.max_doublings < 0:
        raise invalid("RetryConfig.maxDoublings cannot be negative.")
    for field, shown in _DURATIONS.items():
        if seconds(getattr(config, field)) < 0:
            raise invalid(f"RetryConfig.{shown} cannot be negative.")
    if config.HasField("max_backoff") and seconds(config.min_backoff) > seconds(config.max_backoff):
        raise invalid("RetryConfig.minBackoff must be less than or equal to RetryConfig.maxBackoff.")


_DURATIONS = {"max_retry_duration": "maxRetryDuration", "min_backoff": "minBackoff", "max_backoff": "maxBackoff"}


def completed(config: m.RetryConfig, defaults: m.RetryConfig) -> m.RetryConfig:
    """
    *config* with *defaults* for the fields that it omits.

    0 means the default too, since protobuf does not distinguish it from an omitted number.
    """
    whole = deepcopy(config)
    whole.max_attempts = config.max_attempts or defaults.max_attempts
    whole.max_doublings = config.max_doublings or defaults.max_doublings
    for field in _DURATIONS:
        if not config.HasField(field):
            getattr(whole, field).CopyFrom(getattr(defaults, field))
    whole.max_retry_duration.nanos = 0
    return whole


def burst(per_second: float) -> int:
    """The bucket's size: in production 100 at 500 a second and 10 at 1; the line between is our guess."""
    return max(10, round(per_second / 5))


def _check_path(path: str) -> None:
    whole, _, field = path.partition(".")
    if whole == "http_target":
        raise unimplemented("Queue.http_target")
    if path not in _WHOLE and (whole not in _WHOLE or field not in getattr(m.Queue(), whole).DESCRIPTOR.fields_by_name):
        raise invalid(f'Invalid update mask: "{path}" is not a field of Queue that can be updated.')


def _complete_rates(rates: m.RateLimits) -> None:
    rates.max_dispatches_per_second = rates.max_dispatches_per_second or _DEFAULT_RATES.max_dispatches_per_second
    rates.max_concurrent_dispatches = rates.max_concurrent_dispatches or _DEFAULT_RATES.max_concurrent_dispatches
    if rates.max_dispatches_per_second < 0:
        raise invalid("RateLimits.maxDispatchesPerSecond cannot be negative.")
    if not rates.max_dispatches_per_second <= FASTEST:
        raise invalid(f"RateLimits.maxDispatchesPerSecond must be less than or equal to {FASTEST}.")
    if rates.max_concurrent_dispatches < 0:
        raise invalid("RateLimits.maxConcurrentDispatches cannot be negative.")
    if rates.max_concurrent_dispatches > MOST_CONCURRENT:
        raise invalid(f"RateLimits.maxConcurrentDispatches must be less than or equal to {MOST_CONCURRENT}.")
    rates.max_burst_size = burst(rates.max_dispatches_per_second)
