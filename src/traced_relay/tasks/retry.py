"""The verdict on an attempt. Pure: the time and the random numbers are arguments."""

from __future__ import annotations

import email.utils
import re
from datetime import UTC
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from traced_relay.errors import FieldError
from traced_relay.formats.durations import format_duration
from traced_relay.tasks import reasons
from traced_relay.tasks.call import SCHEDULE_AHEAD

if TYPE_CHECKING:
    from collections.abc import Callable

    from traced_relay.tasks.call import Jitter, RetryPolicy

# Seconds. Cloud Tasks accepts 30 days by its own clock; if that is behind, it refuses the task, and the redelivery that
# follows creates it a few seconds later.
LONGEST_WAIT = SCHEDULE_AHEAD
# Seconds, after the first wait, which is a setting.
CALLBACK_WAITS = (300.0, *(hours * 3600.0 for hours in (0.5, 2, 5, 10, 14, 20, 24)))
CALLBACK_JITTER = 0.2
RETRY_AFTER_WITHOUT_LIMIT = 86_400.0  # longest Retry-After that is honoured if the policy sets no duration

# The three forms of RFC 9110, section 5.6.7; a zone may have another name.
_DATE = re.compile(
    r"([a-z]{3,9}, ?)?\d{1,2}[ -][a-z]{3}[ -](\d{2}|\d{4}) \d\d:\d\d:\d\d ([a-z]{1,5}|[+-]\d{4})"
    r"|[a-z]{3} [a-z]{3} [ \d]?\d \d\d:\d\d:\d\d \d{4}",
    re.ASCII | re.IGNORECASE,
)


class AttemptResult(Struct, frozen=True):
    """How one attempt ended: with a status code, or without one for a reason. *retry_after* in seconds."""

    status_code: int | None
    reason: str | None
    retry_after: float | None = None
    was_sent: bool = True


class History(Struct, frozen=True):
    """The attempts of this round so far, the one that just ended among them."""

    counted_attempts: int  # towards max_attempts: without interrupted ones
    failures: int
    since_first: float  # seconds since the first attempt's start


class Verdict(Struct, frozen=True):
    verdict: Literal["succeeded", "retry", "gave_up", "cancelled"]
    reason: str | None = None
    blame: reasons.Blame | None = None
    retry_delay: float | None = None
    delay_reason: Literal["backoff", "retry_after"] | None = None


def judge(
    policy: RetryPolicy, *, idempotent: bool, result: AttemptResult, history: History, random: Callable[[], float]
) -> Verdict:
    """
    The verdict on the attempt that just ended.

    The limit of the policy that is reached first ends the call; Cloud Tasks would go on until both are.
    """
    if result.reason is None:
        return Verdict("succeeded")
    gave_up = Verdict("gave_up", result.reason, reasons.blame(result.reason))
    if not is_retryable(policy, idempotent=idempotent, result=result):
        return gave_up
    if history.counted_attempts >= policy.max_attempts:
        return gave_up
    delay = jittered(curve(policy, history.failures), policy.jitter, random)
    return _retry(gave_up, policy, delay, result.retry_after, history)


def judge_callback(
    policy: RetryPolicy, *, result: AttemptResult, history: History, random: Callable[[], float]
) -> Verdict:
    """
    The verdict on an attempt to deliver a callback, which has its own schedule.

    A 2xx ends it; 410 means that the receiver wants no more callbacks (Standard Webhooks); everything else is retried,
    since callbacks are idempotent.
    """
    if result.reason is None:
        return Verdict("succeeded")
    gave_up = Verdict("gave_up", result.reason, reasons.blame(result.reason))
    waits = (policy.min_backoff, *CALLBACK_WAITS)
    if result.reason in ("http_410", "denied") or history.counted_attempts > len(waits):
        return gave_up
    wait = waits[max(0, history.counted_attempts - 1)]
    return _retry(gave_up, policy, wait + random() * wait * CALLBACK_JITTER, result.retry_after, history)


def _retry(gave_up: Verdict, policy: RetryPolicy, delay: float, retry_after: float | None, history: History) -> Verdict:
    """A retry after *delay*, or after *retry_after* if that is longer; *gave_up* if that would be too late."""
    delay_reason: Literal["backoff", "retry_after"] = "backoff"
    if retry_after is not None and retry_after > delay:
        delay, delay_reason = retry_after, "retry_after"
    if _is_too_late(policy, history.since_first, delay, delay_reason):
        return gave_up
    return Verdict("retry", gave_up.reason, gave_up.blame, delay, delay_reason)


def _is_too_late(policy: RetryPolicy, since_first: float, delay: float, delay_reason: str) -> bool:
    if delay > LONGEST_WAIT:
        return True
    if policy.max_retry_duration > 0:
        return since_first + delay > policy.max_retry_duration
    return delay_reason == "retry_after" and delay > RETRY_AFTER_WITHOUT_LIMIT


def broken_rule(policy: RetryPolicy) -> FieldError | None:
    """The rule that *policy* breaks if its `max_retry_duration` ends every call before the first retry."""
    least, longest = jittered(curve(policy, 1), policy.jitter, lambda: 0.0), policy.max_retry_duration
    if policy.max_attempts == 1 or longest == 0 or least <= longest:
        return None
    wait = f"the shortest first wait, {format_duration(least)}"
    return FieldError("max_retry_duration", f"must be 0s or at least {wait}, got {format_duration(longest)}")


def is_retryable(policy: RetryPolicy, *, idempotent: bool, result: AttemptResult) -> bool:
    if result.status_code is not None and result.reason == f"http_{result.status_code}":
        return result.status_code in retryable_status_codes(policy, idempotent=idempotent)
    if result.reason == "interrupted" and not result.was_sent:
        return True
    return result.reason in (reasons.IDEMPOTENT_REASONS if idempotent else reasons.SAFE_REASONS)


def retryable_status_codes(policy: RetryPolicy, *, idempotent: bool) -> tuple[int, ...]:
    if policy.retryable_status_codes is not None:
        return policy.retryable_status_codes
    return reasons.IDEMPOTENT_STATUS_CODES if idempotent else reasons.SAFE_STATUS_CODES


def curve(policy: RetryPolicy, failures: int) -> float:
    """
    Seconds to wait after the given number of *failures*, before jitter.

    `min_backoff`, doubled `max_doublings` times, then growing by the last step, at most `max_backoff` (Cloud Tasks'
    RetryConfig): 10, 20, 40, 80, 160, 240, 300, 300 for 10 s, 300 s and 3 doublings.
    """
    doublings = min(max(failures - 1, 0), policy.max_doublings)
    step = policy.min_backoff * 2.0**doublings
    return min(policy.max_backoff, step * max(failures - doublings, 1))


def jittered(seconds: float, jitter: Jitter, random: Callable[[], float]) -> float:
    """Full jitter by default, so that calls which failed together do not return together."""
    if jitter == "none":
        return seconds
    return random() * seconds if jitter == "full" else seconds / 2 + random() * seconds / 2


def parse_retry_after(value: str | None, now: float) -> float | None:
    """
    Seconds that a `Retry-After` asks for (RFC 9110, section 10.2.3); None if it is malformed or past.

    Several lines, joined by commas, are malformed.
    """
    value = (value or "").strip(" \t")
    if re.fullmatch("[0-9]+", value):
        return float(value)
    if not _DATE.fullmatch(value):
        return None
    try:
        date = email.utils.parsedate_to_datetime(value.replace(":60 ", ":59 "))  # a leap second
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, OverflowError):
        return None
    return seconds if seconds > 0 else None
