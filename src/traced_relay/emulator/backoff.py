"""When a failed task is retried, and when no more. Nothing here reads a clock."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from traced_relay.emulator.messages import Duration, RetryConfig, Timestamp

RETENTION = 31 * 86400.0
LONGEST_RETRY_AFTER = 86400.0  # our limit; production documents only that it considers the header


def is_exhausted(config: RetryConfig, attempts: int, elapsed: float) -> bool:
    """
    Whether a task is given up after *attempts* failures, *elapsed* seconds after the first attempt began.

    Both limits must be reached; one that is off (-1 attempts, duration 0) leaves the decision to the other.
    """
    longest = seconds(config.max_retry_duration)
    limits_attempts, limits_time = config.max_attempts != -1, longest > 0
    if not limits_attempts and not limits_time:
        return False
    return (not limits_attempts or attempts >= config.max_attempts) and (not limits_time or elapsed >= longest)


def delay(config: RetryConfig, failures: int) -> float:
    """
    Seconds to wait after the given number of *failures*.

    The minimum, doubled `max_doublings` times, then growing by the last step up to the maximum.
    """
    doublings: int = config.max_doublings
    # Past 64 doublings every backoff is at its maximum, and floats would overflow.
    step = seconds(config.min_backoff) * 2.0 ** min(failures - 1, doublings, 64)
    linear = max(0, failures - 1 - doublings)
    return min(step * (1 + linear), seconds(config.max_backoff))


def seconds(message: Duration | Timestamp) -> float:
    """A protobuf Duration or Timestamp as a float."""
    return message.seconds + message.nanos / 1e9


def retry_after(value: str | None, now: float) -> float:
    """The seconds that a Retry-After header requests; 0 if it is unreadable or past."""
    if value is None:
        return 0.0
    value = value.strip()
    if value.isascii() and value.isdigit():
        asked = float(value[:12])
    else:
        try:
            asked = parsedate_to_datetime(value).timestamp() - now
        except (ValueError, OverflowError):
            return 0.0
    return min(max(asked, 0.0), LONGEST_RETRY_AFTER)
