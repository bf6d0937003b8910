from typing import Any

import pytest

from support.rig import QUEUE, duration, refusal, retries
from traced_relay.emulator import messages as m
from traced_relay.emulator import queue_rules
from traced_relay.emulator.errors import ApiError

DEFAULT = m.Queue(
    name=QUEUE,
    state=m.RUNNING,
    rate_limits={"max_dispatches_per_second": 500, "max_burst_size": 100, "max_concurrent_dispatches": 1000},
    retry_config=retries(100, 0, 0.1, 3600, 16),
)


def queue(**fields: Any) -> m.Queue:
    return m.Queue(name=QUEUE, **fields)


def updated(current: m.Queue, requested: m.Queue, *mask: str) -> m.Queue:
    return queue_rules.updated_queue(current, requested, mask)


def test_a_new_queue_gets_productions_defaults() -> None:
    assert queue_rules.new_queue(queue()) == DEFAULT


def test_output_only_fields_are_ignored() -> None:
    requested = queue(state=m.PAUSED, purge_time=m.Timestamp(seconds=1), rate_limits={"max_burst_size": -1})

    assert queue_rules.new_queue(requested) == DEFAULT


def test_given_fields_are_kept_and_others_completed() -> None:
    made = queue_rules.new_queue(
        queue(
            rate_limits={"max_dispatches_per_second": 0.5},
            retry_config={"max_attempts": -1, "max_backoff": duration(60)},
            stackdriver_logging_config={"sampling_ratio": 0.25},
            app_engine_routing_override={"service": "s", "host": "ignored"},
        )
    )

    assert made.rate_limits == m.RateLimits(
        max_dispatches_per_second=0.5, max_burst_size=10, max_concurrent_dispatches=1000
    )
    assert made.retry_config == m.RetryConfig(**retries(-1, 0, 0.1, 60, 16))
    assert made.stackdriver_logging_config.sampling_ratio == 0.25
    assert made.app_engine_routing_override.host == "s.p.appspot.com"


def test_the_retry_duration_is_cut_to_whole_seconds() -> None:
    made = queue_rules.new_queue(queue(retry_config={"max_retry_duration": duration(59.9)}))

    assert made.retry_config.max_retry_duration == duration(59)


@pytest.mark.parametrize(("per_second", "size"), [(0.1, 10), (1, 10), (50, 10), (100, 20), (500, 100)])
def test_the_burst_follows_the_rate(per_second: float, size: int) -> None:
    assert queue_rules.burst(per_second) == size


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"rate_limits": {"max_dispatches_per_second": -1}}, "RateLimits.maxDispatchesPerSecond cannot be negative."),
        (
            {"rate_limits": {"max_dispatches_per_second": 501}},
            "RateLimits.maxDispatchesPerSecond must be less than or equal to 500.",
        ),
        (
            {"rate_limits": {"max_dispatches_per_second": float("nan")}},
            "RateLimits.maxDispatchesPerSecond must be less than or equal to 500.",
        ),
        ({"rate_limits": {"max_concurrent_dispatches": -1}}, "RateLimits.maxConcurrentDispatches cannot be negative."),
        (
            {"rate_limits": {"max_concurrent_dispatches": 5001}},
            "RateLimits.maxConcurrentDispatches must be less than or equal to 5000.",
        ),
        ({"retry_config": {"max_attempts": -2}}, "RetryConfig.maxAttempts must be greater or equal to -1."),
        ({"retry_config": {"max_doublings": -1}}, "RetryConfig.maxDoublings cannot be negative."),
        ({"retry_config": {"min_backoff": duration(-1)}}, "RetryConfig.minBackoff cannot be negative."),
        ({"retry_config": {"max_backoff": duration(-1)}}, "RetryConfig.maxBackoff cannot be negative."),
        ({"retry_config": {"max_retry_duration": duration(-1)}}, "RetryConfig.maxRetryDuration cannot be negative."),
        (
            {"retry_config": {"min_backoff": duration(10), "max_backoff": duration(5)}},
            "RetryConfig.minBackoff must be less than or equal to RetryConfig.maxBackoff.",
        ),
        (
            {"stackdriver_logging_config": {"sampling_ratio": 1.5}},
            "StackdriverLoggingConfig.samplingRatio must be between 0.0 and 1.0.",
        ),
    ],
)
def test_out_of_range_values_get_productions_errors(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ApiError) as refused:
        queue_rules.new_queue(queue(**fields))

    assert refusal(refused.value) == ("INVALID_ARGUMENT", text)


def test_a_queue_that_rewrites_its_tasks_targets_is_not_implemented() -> None:
    with pytest.raises(ApiError) as refused:
        queue_rules.new_queue(queue(http_target={"http_method": m.POST}))

    assert refused.value.code.name == "UNIMPLEMENTED"


def test_an_update_without_a_mask_replaces_everything() -> None:
    current = queue_rules.new_queue(
        queue(rate_limits={"max_dispatches_per_second": 5}, app_engine_routing_override={"service": "s"})
    )

    assert updated(current, queue(retry_config={"max_attempts": 7})) == queue_rules.new_queue(
        queue(retry_config={"max_attempts": 7})
    )


def test_an_update_touches_only_what_the_mask_names() -> None:
    current = queue_rules.new_queue(queue(retry_config=retries(5, 60, 1, 30, 2)))
    requested = queue(
        rate_limits={"max_dispatches_per_second": 5, "max_concurrent_dispatches": 7},
        retry_config={"max_attempts": 9, "min_backoff": duration(3)},
    )

    changed = updated(current, requested, "rate_limits", "retry_config.min_backoff")

    assert changed.rate_limits == m.RateLimits(
        max_dispatches_per_second=5, max_burst_size=10, max_concurrent_dispatches=7
    )
    assert changed.retry_config == m.RetryConfig(**retries(5, 60, 3, 30, 2))
    assert current.retry_config.min_backoff == duration(1)


@pytest.mark.parametrize(
    ("path", "field", "expected"),
    [
        ("retry_config.max_doublings", "max_doublings", 0),
        ("retry_config.max_attempts", "max_attempts", 100),
        ("retry_config.max_backoff", "max_backoff", duration(3600)),
        ("retry_config.max_retry_duration", "max_retry_duration", m.Duration()),
    ],
)
def test_a_masked_field_without_a_value_is_reset(path: str, field: str, expected: object) -> None:
    current = queue_rules.new_queue(queue(retry_config=retries(5, 60, 1, 30, 2)))

    assert getattr(updated(current, queue(), path).retry_config, field) == expected


def test_no_doublings_stay_when_other_fields_are_updated() -> None:
    current = updated(DEFAULT, queue(), "retry_config.max_doublings")

    assert updated(current, queue(retry_config={"max_attempts": 3}), "retry_config.max_attempts").retry_config == (
        m.RetryConfig(**retries(3, 0, 0.1, 3600, 0))
    )


def test_no_doublings_can_be_named_beside_their_message() -> None:
    changed = updated(DEFAULT, queue(), "retry_config", "retry_config.max_doublings")

    assert changed.retry_config == m.RetryConfig(**retries(100, 0, 0.1, 3600, 0))


def test_a_field_of_the_routing_can_be_named_alone() -> None:
    current = queue_rules.new_queue(queue(app_engine_routing_override={"service": "s", "version": "v"}))

    changed = updated(
        current, queue(app_engine_routing_override={"version": "w"}), "app_engine_routing_override.version"
    )

    assert changed.app_engine_routing_override == m.AppEngineRouting(service="s", version="w", host="w.s.p.appspot.com")


def test_a_mask_that_names_output_only_fields_changes_nothing() -> None:
    requested = queue(state=m.PAUSED, rate_limits={"max_burst_size": 1})

    assert updated(DEFAULT, requested, "state", "name", "purge_time", "rate_limits.max_burst_size") == DEFAULT


@pytest.mark.parametrize("path", ["rate", "retry_config.max_tries", "rate_limits.", "tasks", "name.x"])
def test_a_mask_that_names_no_field_is_refused(path: str) -> None:
    with pytest.raises(ApiError) as refused:
        updated(DEFAULT, queue(), path)

    assert refusal(refused.value) == (
        "INVALID_ARGUMENT",
        f'Invalid update mask: "{path}" is not a field of Queue that can be updated.',
    )


@pytest.mark.parametrize("path", ["http_target", "http_target.uri_override"])
def test_a_mask_that_names_the_target_override_is_not_implemented(path: str) -> None:
    with pytest.raises(ApiError) as refused:
        updated(DEFAULT, queue(), path)

    assert refused.value.code.name == "UNIMPLEMENTED"


def test_an_update_is_checked_as_a_whole() -> None:
    with pytest.raises(ApiError, match="minBackoff must be less"):
        updated(DEFAULT, queue(retry_config={"max_backoff": duration(0.05)}), "retry_config.max_backoff")


def test_a_tasks_own_retry_config_fills_its_gaps_from_the_queues() -> None:
    own = m.RetryConfig(max_attempts=3, min_backoff=duration(2))

    assert queue_rules.completed(own, DEFAULT.retry_config) == m.RetryConfig(**retries(3, 0, 2, 3600, 16))
