from __future__ import annotations

from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.example_rows import BUSY, MISSING, NOW, SUCCESS, policy
from traced_relay.errors import FieldError
from traced_relay.tasks.retry import (
    LONGEST_WAIT,
    AttemptResult,
    History,
    Verdict,
    broken_rule,
    curve,
    is_retryable,
    jittered,
    judge,
    parse_retry_after,
)

if TYPE_CHECKING:
    from traced_relay.tasks.call import RetryPolicy

FIRST = History(counted_attempts=1, failures=1, since_first=0.5)


def verdict(
    ending: AttemptResult, history: History = FIRST, *, idempotent: bool = False, dice: float = 0.5, **changes: Any
) -> Verdict:
    return judge(policy(**changes), idempotent=idempotent, result=ending, history=history, random=lambda: dice)


@pytest.mark.parametrize(
    ("changes", "waits"),
    [
        ({}, [10, 20, 40, 80, 160, 240, 300, 300, 300]),
        ({"max_doublings": 0}, [10, 20, 30, 40, 50]),
        ({"max_doublings": 1}, [10, 20, 40, 60, 80]),
        ({"max_doublings": 16, "max_backoff": "3600s", "min_backoff": "0.1s"}, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2]),
        ({"max_backoff": "10s"}, [10, 10, 10]),
        ({"min_backoff": "0s"}, [0, 0, 0, 0, 0]),
    ],
)
def test_the_curve_doubles_then_grows_linearly_to_its_cap(changes: dict[str, Any], waits: list[float]) -> None:
    assert [curve(policy(**changes), failures) for failures in range(1, len(waits) + 1)] == waits


POLICIES = st.builds(
    lambda least, more, doublings: policy(
        min_backoff=f"{least}s", max_backoff=f"{least + more}s", max_doublings=doublings
    ),
    st.integers(0, 86_400),
    st.integers(0, 86_400),
    st.integers(0, 1000),
)


@given(POLICIES, st.integers(1, 10_000))
def test_the_curve_never_falls_and_stays_between_its_ends(wanted: RetryPolicy, failures: int) -> None:
    here, there = curve(wanted, failures), curve(wanted, failures + 1)
    assert wanted.min_backoff <= here <= there <= wanted.max_backoff


@given(st.floats(0, 1e6), st.floats(0, 1, exclude_max=True))
def test_jitter_stays_within_its_bounds(seconds: float, dice: float) -> None:
    assert 0 <= jittered(seconds, "full", lambda: dice) <= seconds
    assert seconds / 2 <= jittered(seconds, "equal", lambda: dice) <= seconds
    assert jittered(seconds, "none", lambda: dice) == seconds


@pytest.mark.parametrize(
    ("jitter", "dice", "wait"),
    [("full", 0.0, 0.0), ("full", 0.25, 10.0), ("equal", 0.0, 20.0), ("equal", 0.25, 25.0), ("none", 0.25, 40.0)],
)
def test_jitter_is_taken_from_the_curve(jitter: str, dice: float, wait: float) -> None:
    given_up_to = History(counted_attempts=3, failures=3, since_first=60)
    assert verdict(BUSY, given_up_to, dice=dice, jitter=jitter) == Verdict(
        "retry", "http_503", "downstream", wait, "backoff"
    )


ALWAYS, IF_IDEMPOTENT, NEVER = (True, True), (False, True), (False, False)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        *((reason, ALWAYS) for reason in ("http_429", "http_503", "connect_failed", "dns_failed", "auth_unavailable")),
        *((f"http_{code}", IF_IDEMPOTENT) for code in (408, 425, 500, 502, 504)),
        *(
            (reason, IF_IDEMPOTENT)
            for reason in (
                *("timeout", "reset", "stale_connection", "incomplete_response", "interrupted", "worker_lost"),
            )
        ),
        *((f"http_{code}", NEVER) for code in (400, 401, 403, 404, 409, 410, 422, 501, 505, 599)),
        *(
            (reason, NEVER)
            for reason in ("redirect", "tls_failed", "malformed_response", "denied", "expired", "removed")
        ),
        ("cancelled", NEVER),
    ],
)
def test_reasons_that_are_retried_by_default(reason: str, expected: tuple[bool, bool]) -> None:
    code = int(reason.removeprefix("http_")) if reason.startswith("http_") else None
    ending = AttemptResult(302 if reason == "redirect" else code, reason)
    assert (
        tuple(is_retryable(policy(), idempotent=idempotent, result=ending) for idempotent in (False, True)) == expected
    )
    assert verdict(ending, idempotent=True).verdict == ("retry" if expected[1] else "gave_up")


def test_an_attempt_interrupted_before_sending_is_retried() -> None:
    assert verdict(AttemptResult(None, "interrupted", was_sent=False)).verdict == "retry"
    assert verdict(AttemptResult(None, "interrupted", was_sent=True)).verdict == "gave_up"


@pytest.mark.parametrize("idempotent", [False, True])
def test_retryable_status_codes_replace_only_the_status_rule(idempotent: bool) -> None:
    def outcome(ending: AttemptResult) -> str:
        return verdict(ending, idempotent=idempotent, retryable_status_codes=[404]).verdict

    assert [outcome(ending) for ending in (MISSING, BUSY, AttemptResult(None, "dns_failed"))] == [
        "retry",
        "gave_up",
        "retry",
    ]
    assert outcome(AttemptResult(None, "timeout")) == ("retry" if idempotent else "gave_up")


def test_retryable_status_codes_may_be_empty() -> None:
    assert verdict(BUSY, retryable_status_codes=[]).verdict == "gave_up"


def test_success_is_success_however_late() -> None:
    assert verdict(SUCCESS, History(5, 4, 1e9), max_retry_duration="1s") == Verdict("succeeded")


@pytest.mark.parametrize(
    ("ending", "history", "changes", "expected"),
    [
        (BUSY, History(4, 4, 0), {}, Verdict("retry", "http_503", "downstream", 80.0, "backoff")),
        (BUSY, History(5, 5, 0), {}, Verdict("gave_up", "http_503", "downstream")),
        (BUSY, History(1, 1, 0), {"max_attempts": 1}, Verdict("gave_up", "http_503", "downstream")),
        (BUSY, History(4, 9, 0), {}, Verdict("retry", "http_503", "downstream", 300.0, "backoff")),
        (
            BUSY,
            History(1, 1, 50),
            {"max_retry_duration": "60s"},
            Verdict("retry", "http_503", "downstream", 10.0, "backoff"),
        ),
        (BUSY, History(1, 1, 0), {"max_retry_duration": "0.5s"}, Verdict("gave_up", "http_503", "downstream")),
        (BUSY, History(1, 1, 50.1), {"max_retry_duration": "60s"}, Verdict("gave_up", "http_503", "downstream")),
        (BUSY, History(5, 5, 0), {"max_retry_duration": "1h"}, Verdict("gave_up", "http_503", "downstream")),
        (BUSY, History(2, 2, 1e7), {"max_attempts": 9}, Verdict("retry", "http_503", "downstream", 20.0, "backoff")),
        (MISSING, History(1, 1, 0), {}, Verdict("gave_up", "http_404", "caller")),
        (
            AttemptResult(None, "auth_unavailable"),
            FIRST,
            {},
            Verdict("retry", "auth_unavailable", "platform", 10.0, "backoff"),
        ),
    ],
)
def test_the_first_limit_reached_ends_the_task(
    ending: AttemptResult, history: History, changes: dict[str, Any], expected: Verdict
) -> None:
    assert verdict(ending, history, **changes) == expected


def busy_for(seconds: float) -> AttemptResult:
    return AttemptResult(503, "http_503", retry_after=seconds)


@pytest.mark.parametrize(
    ("asked", "changes", "expected"),
    [
        (5, {}, (10.0, "backoff")),
        (10, {}, (10.0, "backoff")),
        (11, {}, (11.0, "retry_after")),
        (86_400, {}, (86_400.0, "retry_after")),
        (86_401, {}, None),
        (float("inf"), {}, None),
        (float("inf"), {"max_retry_duration": "365d"}, None),
        (59, {"max_retry_duration": "60s"}, (59.0, "retry_after")),
        (60, {"max_retry_duration": "60s"}, None),
        (86_401, {"max_retry_duration": "7d"}, (86_401.0, "retry_after")),
        (LONGEST_WAIT, {"max_retry_duration": "90d"}, (LONGEST_WAIT, "retry_after")),
        (LONGEST_WAIT + 1, {"max_retry_duration": "90d"}, None),
    ],
)
def test_a_retry_after_is_a_floor_and_too_long_a_one_the_end(
    asked: float, changes: dict[str, Any], expected: tuple[float, str] | None
) -> None:
    made = verdict(busy_for(asked), **changes)
    if expected is None:
        assert made == Verdict("gave_up", "http_503", "downstream")
    else:
        assert made == Verdict("retry", "http_503", "downstream", *expected)


@pytest.mark.parametrize("failures", [1, 2, 4])
def test_the_longest_wait_of_a_policy_is_made_to_the_second(failures: int) -> None:
    longest = {"min_backoff": "30d", "max_backoff": "30d"}
    assert verdict(BUSY, History(failures, failures, 0), **longest).retry_delay == LONGEST_WAIT == 30 * 86_400


ANY_POLICY = st.builds(
    lambda least, more, **rest: policy(
        min_backoff=f"{least}s", max_backoff=f"{min(least + more, 30 * 86_400)}s", **rest
    ),
    st.integers(0, 30 * 86_400),
    st.integers(0, 30 * 86_400),
    max_doublings=st.integers(0, 1000),
    max_attempts=st.integers(1, 40),
    max_retry_duration=st.integers(0, 365 * 86_400).map("{}s".format),
    jitter=st.sampled_from(["full", "equal", "none"]),
)


@given(ANY_POLICY, st.floats(0, 1, exclude_max=True))
def test_a_policy_retries_until_one_of_its_limits(wanted: RetryPolicy, dice: float) -> None:
    since_first = 0.0
    for failures in range(1, wanted.max_attempts + 1):
        history = History(failures, failures, since_first)
        made = judge(wanted, idempotent=False, result=BUSY, history=history, random=lambda: dice)
        wait = jittered(curve(wanted, failures), wanted.jitter, lambda: dice)
        if made.verdict == "gave_up":
            is_too_long = 0 < wanted.max_retry_duration < since_first + wait
            assert failures == wanted.max_attempts or is_too_long
            return
        assert (made.verdict, made.retry_delay, made.delay_reason) == ("retry", wait, "backoff")
        since_first += wait
    raise AssertionError("the last attempt was followed by another")


@given(ANY_POLICY)
def test_a_policy_without_a_broken_rule_can_retry(wanted: RetryPolicy) -> None:
    made = judge(wanted, idempotent=False, result=BUSY, history=History(1, 1, 0.0), random=lambda: 0.0)
    assert (made.verdict == "retry") == (broken_rule(wanted) is None and wanted.max_attempts > 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_retry_duration": "9s"}, "must be 0s or at least the shortest first wait, 10s, got 9s"),
        ({"max_retry_duration": "4s", "jitter": "equal"}, "must be 0s or at least the shortest first wait, 5s, got 4s"),
        ({"max_retry_duration": "10s"}, None),
        ({"max_retry_duration": "5s", "jitter": "equal"}, None),
        ({"max_retry_duration": "0.1s", "jitter": "full"}, None),
        ({"max_retry_duration": "0s"}, None),
        ({"max_retry_duration": "9s", "max_attempts": 1}, None),
    ],
)
def test_a_duration_below_the_first_delay_breaks_a_rule(changes: dict[str, Any], message: str | None) -> None:
    expected = None if message is None else FieldError("max_retry_duration", message)
    assert broken_rule(policy(**changes)) == expected


def test_a_retry_after_makes_nothing_retryable() -> None:
    assert verdict(AttemptResult(404, "http_404", retry_after=5)).verdict == "gave_up"


@given(
    POLICIES,
    st.sampled_from(["full", "equal", "none"]),
    st.integers(1, 50),
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 1e6) | st.none(),
)
def test_a_delay_is_the_longer_of_backoff_and_retry_after(
    wanted: RetryPolicy, jitter: str, failures: int, dice: float, asked: float | None
) -> None:
    wanted = wanted.model_copy(update={"jitter": jitter, "max_attempts": 100})
    made = judge(
        wanted,
        idempotent=False,
        result=AttemptResult(429, "http_429", retry_after=asked),
        history=History(failures, failures, 0.0),
        random=lambda: dice,
    )
    if made.retry_delay is None:
        assert (made.verdict, asked is not None and asked > 86_400) == ("gave_up", True)
    else:
        assert (asked or 0.0) <= made.retry_delay <= max(asked or 0.0, curve(wanted, failures))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("9999999999", 9_999_999_999.0),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        (formatdate(NOW + 90), 90.0),
        ("Tuesday, 22-Sep-26 15:41:40 GMT", 91_700.0),
        (formatdate(NOW - 90, usegmt=True), None),
        (formatdate(NOW, usegmt=True), None),
        *((junk, None) for junk in ("", "-1", "1.5", "1e3", "soon", "٣", "5, 6", "120 s", "\0", "Thu, 99 Foo")),
        *((junk, None) for junk in ("+5", "5.0", "5,", "5, 5", "\v5", "5\xa0", "0x5", "5;", "PT5S", "5 GMT")),
        ("0000000000000005", 5.0),
        ("9" * 30, 1e30),
        ("9" * 5000, float("inf")),
        ("Mon Sep 21 14:14:50 2026", 90.0),
        ("Fri Oct  2 14:13:20 2026", 11 * 86_400.0),
        ("Mon, 21 Sep 2026 14:14:60 GMT", 99.0),
        (", ".join([formatdate(NOW + 90, usegmt=True)] * 2), None),
        (f"{formatdate(NOW + 90, usegmt=True)}, 5", None),
        ("Thu, 01 Jan 0000 00:00:00 GMT", None),
    ],
)
def test_a_retry_after_is_seconds_or_a_date_or_ignored(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds


@given(
    st.text()
    | st.from_regex(r"(Mon, )?\d{1,3} (Jan|Feb|X) \d{1,6} \d{1,3}:\d\d(:\d\d)? ?(GMT|[+-]\d{1,9})?", fullmatch=True)
)
def test_no_text_makes_a_retry_after_raise(value: str) -> None:
    seconds = parse_retry_after(value, NOW)
    assert seconds is None or seconds >= 0
