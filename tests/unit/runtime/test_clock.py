from __future__ import annotations

from threading import Condition, Event, Thread

import pytest

from traced_relay.runtime.clock import ManualClock, SystemClock


class Sleeper(Thread):
    """Waits on the clock once, for the given seconds."""

    def __init__(self, clock: ManualClock, seconds: float | None) -> None:
        super().__init__(daemon=True)
        self.condition, self.woken = Condition(), Event()
        self._asleep = Event()
        self._clock, self._seconds = clock, seconds
        self.start()
        assert self._asleep.wait(5)
        with self.condition:  # only free again once the clock has put the sleeper to sleep
            pass

    def run(self) -> None:
        with self.condition:
            self._asleep.set()
            self._clock.wait(self.condition, self._seconds)
        self.woken.set()


def test_a_manual_clock_stands_still_until_it_is_moved() -> None:
    clock = ManualClock(100.0)
    assert (clock.now(), clock.now(), clock.monotonic()) == (100.0, 100.0, 100.0)
    clock.advance(86_400)
    assert (clock.now(), clock.monotonic()) == (86_500.0, 86_500.0)


@pytest.mark.parametrize("seconds", [60, None])
def test_advancing_a_manual_clock_wakes_its_waiters(seconds: float | None) -> None:
    clock = ManualClock()
    sleepers = [Sleeper(clock, seconds) for _ in range(3)]
    assert not any(sleeper.woken.is_set() for sleeper in sleepers)
    clock.advance(1)
    assert all(sleeper.woken.wait(5) for sleeper in sleepers)


def test_a_notification_wakes_a_waiter_on_a_manual_clock() -> None:
    sleeper = Sleeper(ManualClock(), None)
    with sleeper.condition:
        sleeper.condition.notify_all()
    assert sleeper.woken.wait(5)


def test_a_wait_that_is_over_returns_at_once() -> None:
    clock, condition = ManualClock(), Condition()
    with condition:
        clock.wait(condition, 0)
        clock.wait(condition, -1)


def test_the_systems_clock_goes_on() -> None:
    clock, condition = SystemClock(), Condition()
    before, at = clock.monotonic(), clock.now()
    with condition:
        clock.wait(condition, 0.01)
    assert clock.monotonic() >= before + 0.005
    assert clock.now() == pytest.approx(at, abs=60)
