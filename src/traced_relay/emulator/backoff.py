"""When a failed task is retried, and when no more. Nothing here reads a clock."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from traced_relay.emulator.messages import Duration, RetryConfig

RETENTION = 31 * 86400.0
LONGEST_RETRY_AFTER = 86400.0  # our limit; production documents only that it considers the header


class RetryPolicy(NamedTuple):
    """RetryConfig as numbers, durations in seconds."""

    max_attempts: int
    max_retry_duration: float
    min_backoff: float
    max_backoff: float
    max_doublings: int

    @classmethod
    def of(cls, config: RetryConfig) -> RetryPolicy:
        return cls(
            config.max_attempts,
            seconds(config.max_retry_duration),
            seconds(config.min_backoff),
            seconds(config.max_backoff),
            config.max_doublings,
        )

    def is_exhausted(self, attempts: int, elapsed: float) -> bool:
        """
        Whether a task is given up after *attempts* failures, *elapsed* seconds after the first attempt began.

        Both limits must be reached; one that is off (-1 attempts, duration 0) leaves the decision to the other.
        """
        limits_attempts, limits_time = self.max_attempts != -1, self.max_retry_duration > 0
        if not limits_attempts and not limits_time:
            return False
        return (not limits_attempts or attempts >= self.max_attempts) and (
            not limits_time or elapsed >= self.max_retry_duration
        )

    def delay(self, failures: int) -> float:
        """
        Seconds to wait after the given number of *failures*.

        The minimum, doubled `max_doublings` times, then growing by the last step up to the maximum.
        """
        doublings = min(failures - 1, self.max_doublings)
        # Past 64 doublings every backoff is at its maximum, and floats would overflow.
        step = self.min_backoff * 2.0 ** min(doublings, 64)
        linear = max(0, failures - 1 - self.max_doublings)
        return min(step * (1 + linear), self.max_backoff)


def seconds(duration: Duration) -> float:
    """A protobuf Duration as a float."""
    return duration.seconds + duration.nanos / 1e9


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
