from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest

from traced_relay.errors import NotFound, Unavailable
from traced_relay.runtime.clock import ManualClock
from traced_relay.runtime.refreshing import RETRY_AFTER, RETRY_AFTER_NOTHING, Refreshing

if TYPE_CHECKING:
    from traced_relay.errors import RelayError


class Source:
    def __init__(self, *script: str | RelayError) -> None:
        self.script = list(script)

    def fetch(self) -> str:
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        return step


def cache(source: Source, clock: ManualClock, **options: Any) -> Refreshing[str]:
    return Refreshing(source.fetch, clock, fresh_for=lambda _: 100.0, **options)


def test_a_value_is_fetched_again_once_it_is_not_fresh() -> None:
    clock = ManualClock()
    cached = cache(Source("a", "b"), clock)
    assert [cached.get(), cached.get()] == ["a", "a"]
    clock.advance(100)
    assert cached.get() == "b"


def test_an_insufficient_value_is_fetched_after_a_pause() -> None:
    clock = ManualClock()
    cached = cache(Source("a", "b"), clock)
    assert cached.get("b".__eq__) == "a"
    clock.advance(RETRY_AFTER - 1)
    assert cached.get("b".__eq__) == "a"
    clock.advance(1)
    assert cached.get("b".__eq__) == "b"


def test_the_old_value_serves_while_the_source_fails() -> None:
    clock, source = ManualClock(), Source("a", Unavailable("away"), "b")
    cached = cache(source, clock)
    cached.get()
    clock.advance(100)
    assert [cached.get(), cached.get(), len(source.script)] == ["a", "a", 1]
    clock.advance(RETRY_AFTER)
    assert cached.get() == "b"


def test_a_revoked_value_is_dropped_and_its_error_raised_again() -> None:
    clock = ManualClock()
    cached = cache(Source("a", NotFound("gone"), "b"), clock, revoked=NotFound)
    cached.get()
    clock.advance(100)
    for _ in range(2):
        with pytest.raises(NotFound, match=r"^gone$"):
            cached.get()
    clock.advance(RETRY_AFTER_NOTHING)
    assert cached.get() == "b"


def test_a_first_value_keeps_every_thread_from_waiting() -> None:
    started, finish = Event(), Event()

    def fetch() -> str:
        started.set()
        assert finish.wait(10)
        return "b"

    cached = Refreshing(fetch, ManualClock(), fresh_for=lambda _: 1.0, value="a")
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(cached.get)
        assert started.wait(10)
        assert cached.get() == "a"
        finish.set()
        assert fetching.result(10) == "b"
