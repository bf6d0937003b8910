import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.rig import retries
from traced_relay.emulator import messages as m
from traced_relay.emulator.backoff import LONGEST_RETRY_AFTER, delay, is_exhausted, retry_after, seconds


def backoff(least: float, most: float, doublings: int) -> m.RetryConfig:
    return m.RetryConfig(**retries(100, 0, least, most, doublings))


@pytest.mark.parametrize(
    ("least", "most", "doublings", "delays"),
    [
        (10, 300, 3, [10, 20, 40, 80, 160, 240, 300, 300]),
        (2, 60, 0, [2, 4, 6, 8, 10]),
        (1, 30, 2, [1, 2, 4, 8, 12, 16, 20, 24, 28, 30, 30]),
        (0.1, 3600, 16, [0.1, 0.2, 0.4, 0.8]),
        (5, 5, 16, [5, 5, 5]),
        (0, 60, 3, [0, 0, 0]),
    ],
)
def test_the_wait_doubles_then_grows_by_the_last_step_then_stays(
    least: float, most: float, doublings: int, delays: list[float]
) -> None:
    config = backoff(least, most, doublings)

    assert [delay(config, n + 1) for n in range(len(delays))] == delays


@given(st.integers(1, 10**9), st.floats(0, 1e6), st.floats(0, 1e7), st.integers(0, 2**31 - 1))
def test_the_wait_never_passes_the_maximum_and_never_shrinks(
    failures: int, least: float, most: float, doublings: int
) -> None:
    limited = backoff(least, most, doublings)

    assert 0 <= delay(limited, failures) <= delay(limited, failures + 1) <= seconds(limited.max_backoff)


@pytest.mark.parametrize(
    ("attempts", "duration", "tried", "elapsed", "ends"),
    [
        (3, 0, 2, 1e6, False),
        (3, 0, 3, 0, True),
        (3, 60, 3, 59, False),
        (3, 60, 2, 61, False),
        (3, 60, 3, 60, True),
        (-1, 60, 1000, 59, False),
        (-1, 60, 1, 60, True),
        (-1, 0, 1000, 1e9, False),
    ],
)
def test_a_task_is_given_up_only_when_both_limits_are_met(
    attempts: int, duration: float, tried: int, elapsed: float, *, ends: bool
) -> None:
    limited = m.RetryConfig(**retries(attempts, duration, 0.1, 3600, 16))

    assert is_exhausted(limited, tried, elapsed) is ends


@pytest.mark.parametrize(
    ("value", "asked"),
    [
        (None, 0),
        ("120", 120),
        (" 7 ", 7),
        ("0", 0),
        ("-5", 0),
        ("1.5", 0),
        ("soon", 0),
        ("", 0),
        ("٣", 0),
        ("9" * 5000, LONGEST_RETRY_AFTER),
        ("Mon, 21 Sep 2026 14:13:50 GMT", 30),
        ("Mon, 21 Sep 2026 14:13:10 GMT", 0),
        ("Mon, 21 Sep 2026 14:13:50 -0000", 30),
        ("Mon, 99 Sep 2026 14:13:50 GMT", 0),
        ("Fri, 21 Sep 2029 14:13:50 GMT", LONGEST_RETRY_AFTER),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_nothing_else(value: str | None, asked: float) -> None:
    assert retry_after(value, now=1_790_000_000.0) == asked
