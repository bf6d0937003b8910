from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from traced_relay.api.list_pacing import MAX_PAUSE, MAX_WAIT, WAITING, WAITING_PER_CALLER, ListPacer
from traced_relay.config.settings import SPARE_THREADS
from traced_relay.errors import TooManyRequests
from traced_relay.runtime.clock import ManualClock

if TYPE_CHECKING:
    from concurrent.futures import Future

SOON = 10


class Paced:
    """A pacer whose clocks move by hand."""

    def __init__(self) -> None:
        self.clock = ManualClock(0.0)
        self.used = 0.0
        self.pacer = ListPacer(self.clock, lambda: self.used)

    def list(self, caller: str = "a", used: float = 0.0) -> float:
        """A list that uses so much processor time; returns when it began."""
        with self.pacer.turn(caller):
            began = self.clock.monotonic()
            self.used += used
        return began

    def later(self, pool: ThreadPoolExecutor, caller: str = "a") -> Future[float]:
        """The same in a thread, which waits when this returns."""
        before = self.waiting
        asked = pool.submit(self.list, caller)
        while self.waiting == before and not asked.done():
            pass
        return asked

    @property
    def waiting(self) -> int:
        """Lists that wait for their turn."""
        return self.pacer._waiting.total()


@pytest.fixture
def paced() -> Paced:
    return Paced()


def test_the_first_list_of_a_caller_begins_at_once(paced: Paced) -> None:
    assert [paced.list(caller, 0.02) for caller in "abc"] == [0.0] * 3


def test_a_list_without_processor_time_delays_none(paced: Paced) -> None:
    assert [paced.list() for _ in range(5)] == [0.0] * 5


def test_the_next_list_begins_when_the_share_is_kept(paced: Paced) -> None:
    paced.list("a", 0.02)
    with ThreadPoolExecutor(1) as pool:
        asked = paced.later(pool)
        assert paced.list("b") == 0.0
        paced.clock.advance(0.37)
        assert not asked.done()
        paced.clock.advance(0.02)
        assert asked.result(SOON) == pytest.approx(0.39)


def test_a_pause_is_bounded(paced: Paced) -> None:
    paced.list("a", 60.0)
    paced.clock.advance(MAX_PAUSE)
    assert paced.list() == MAX_PAUSE


def test_one_list_of_a_caller_runs_at_a_time(paced: Paced) -> None:
    with ThreadPoolExecutor(1) as pool:
        with paced.pacer.turn("a"):
            asked = paced.later(pool)
            assert not asked.done()
            assert paced.list("b") == 0.0
        assert asked.result(SOON) == 0.0


def test_a_failed_list_counts_too(paced: Paced) -> None:
    def fail() -> None:
        with paced.pacer.turn("a"):
            paced.used += 60.0
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    with ThreadPoolExecutor(1) as pool:
        asked = paced.later(pool)
        assert not asked.done()
        paced.clock.advance(MAX_PAUSE)
        assert asked.result(SOON) == MAX_PAUSE


def test_few_lists_of_a_caller_wait(paced: Paced) -> None:
    with ThreadPoolExecutor(WAITING_PER_CALLER) as pool:
        with paced.pacer.turn("a"):
            asked = [paced.later(pool) for _ in range(WAITING_PER_CALLER)]
            with pytest.raises(TooManyRequests, match="too many lists"):
                paced.list()
            assert paced.list("b") == 0.0
        assert [each.result(SOON) for each in asked] == [0.0] * WAITING_PER_CALLER


def test_few_lists_of_all_callers_wait(paced: Paced) -> None:
    for number in range(WAITING + 1):
        paced.list(f"c{number}", 0.1)
    with ThreadPoolExecutor(WAITING) as pool:
        asked = [paced.later(pool, f"c{number}") for number in range(WAITING)]
        with pytest.raises(TooManyRequests, match="too many lists"):
            paced.list(f"c{WAITING}")
        paced.clock.advance(2.0)
        assert [each.result(SOON) for each in asked] == [2.0] * WAITING


def test_lists_that_wait_leave_half_of_the_spare_threads() -> None:
    assert WAITING <= SPARE_THREADS // 2


def test_no_list_waits_longer_than_its_bound(paced: Paced) -> None:
    with ThreadPoolExecutor(1) as pool, paced.pacer.turn("a"):
        asked = paced.later(pool)
        while not asked.done():
            paced.clock.advance(MAX_WAIT)
        with pytest.raises(TooManyRequests, match="too long"):
            asked.result()


def test_nothing_is_kept_of_callers_that_may_list(paced: Paced) -> None:
    for number in range(50):
        paced.list(f"c{number}", 0.01)
        paced.clock.advance(1.0)
    assert len(paced.pacer._next_at) == 1
