import pytest
from hypothesis import given
from hypothesis import strategies as st

from traced_relay.emulator.rates import HALVINGS_AT_MOST, Rate

START = 1_790_000_000.0


def taken(rate: Rate, now: float) -> int:
    """How many may go at this moment."""
    count = 0
    while rate.take(now):
        count += 1
    return count


def test_a_full_bucket_allows_a_burst_then_single_dispatches() -> None:
    rate = Rate(per_second=10, burst=5)

    assert taken(rate, START) == 5
    assert rate.ready_at(START) == pytest.approx(START + 0.1)
    assert [taken(rate, START + 0.1 * n + 0.001) for n in range(1, 5)] == [1, 1, 1, 1]


def test_the_bucket_fills_up_to_its_burst_and_no_further() -> None:
    rate = Rate(per_second=10, burst=5)
    taken(rate, START)

    assert taken(rate, START + 0.301) == 3
    assert taken(rate, START + 3600) == 5


def test_what_is_ready_can_be_taken_at_exactly_that_time() -> None:
    rate = Rate(per_second=3, burst=1)
    now = START
    for _ in range(1000):
        now = max(now, rate.ready_at(now))
        assert rate.take(now)
    assert now == pytest.approx(START + 333, abs=0.001)


def test_a_clock_set_back_stops_the_queue_for_one_bucket() -> None:
    rate = Rate(per_second=1, burst=10)
    taken(rate, START)

    assert rate.ready_at(START - 3600) <= START - 3600 + 1.001


def test_slowing_down_empties_the_bucket_and_halves_the_rate() -> None:
    rate = Rate(per_second=10, burst=5)
    rate.slow_down(START)

    assert taken(rate, START) == 0
    assert rate.ready_at(START) == pytest.approx(START + 0.2)


def test_each_slowing_down_halves_again_down_to_a_floor() -> None:
    rate = Rate(per_second=64, burst=100)
    for _ in range(HALVINGS_AT_MOST + 5):
        rate.slow_down(START)

    assert rate.ready_at(START) == pytest.approx(START + 1)


def test_the_rate_recovers_with_time() -> None:
    rate = Rate(per_second=10, burst=1)
    rate.slow_down(START)
    rate.slow_down(START)

    def spacing(now: float) -> float:
        rate.take(now)
        return rate.ready_at(now) - now

    assert spacing(START + 10) == pytest.approx(0.2)
    assert spacing(START + 20) == pytest.approx(0.1)
    assert spacing(START + 900) == pytest.approx(0.1)


@given(
    st.floats(0.1, 500),
    st.integers(1, 100),
    st.lists(st.floats(0, 5), min_size=1, max_size=50),
)
def test_never_more_than_rate_and_burst_in_any_stretch_of_time(
    per_second: float, burst: int, steps: list[float]
) -> None:
    rate = Rate(per_second, burst)
    now, counts = START, []
    for step in steps:
        now += step
        counts.append((now, taken(rate, now)))

    for first in range(len(counts)):
        for last in range(first, len(counts)):
            stretch = counts[last][0] - counts[first][0]
            total = sum(count for _, count in counts[first : last + 1])
            assert total <= burst + per_second * stretch + 0.01
