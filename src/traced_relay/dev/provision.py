"""The queues of relay.yaml, made in an embedded queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from traced_relay.config.relay_yaml import Queue
    from traced_relay.config.settings import Settings
    from traced_relay.emulator.emulator import LocalQueue


def add_queues(queue: LocalQueue, given: Settings) -> None:
    for rule in given.rules.queues:
        queue.add_queue(f"projects/{given.project}/locations/{given.location}/queues/{rule.name}", **_fields(rule))


def _fields(rule: Queue) -> dict[str, dict[str, object]]:
    """A queue as the relay wants it: its own retries serve crashes only, so they never end and never hurry."""
    return {
        "rate_limits": {
            "max_dispatches_per_second": rule.max_dispatches_per_second,
            "max_concurrent_dispatches": rule.max_concurrent_dispatches,
        },
        "retry_config": {
            "max_attempts": -1,
            "max_retry_duration": {"seconds": 0},
            "min_backoff": {"seconds": 5},
            "max_backoff": {"seconds": 60},
        },
    }
