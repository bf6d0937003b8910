from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from traced_relay.clock import ManualClock
from traced_relay.errors import Unavailable
from traced_relay.gate import Certificates, Keys

if TYPE_CHECKING:
    from collections.abc import Iterator


class Source:
    """Where certificates come from: its answers in their order, and how often it was asked."""

    def __init__(self, *answers: Certificates | None) -> None:
        self._answers: Iterator[Certificates | None] = iter(answers)
        self.asked = 0

    def __call__(self) -> Certificates:
        self.asked += 1
        answer = next(self._answers)
        if answer is None:
            raise Unavailable("away")
        return answer


def test_keys_are_fetched_once_an_hour() -> None:
    source, clock = Source({"a": "1"}, {"a": "2"}), ManualClock()
    keys = Keys(source, clock)
    assert [keys.having("a"), keys.having("a")] == [{"a": "1"}] * 2
    clock.advance(3599)
    assert (keys.having("a"), source.asked) == ({"a": "1"}, 1)
    clock.advance(1)
    assert (keys.having("a"), source.asked) == ({"a": "2"}, 2)


def test_a_new_key_is_asked_for_but_not_for_every_strangers_token() -> None:
    source, clock = Source({"a": "1"}, {"a": "1"}, {"a": "1", "b": "2"}), ManualClock()
    keys = Keys(source, clock)
    keys.having("a")
    clock.advance(31)
    assert [keys.having("b") for _ in range(5)] == [{"a": "1"}] * 5
    assert source.asked == 2
    clock.advance(31)
    assert keys.having("b") == {"a": "1", "b": "2"}


def test_old_keys_serve_on_while_the_source_is_away_and_it_is_asked_now_and_then() -> None:
    source, clock = Source({"a": "1"}, None, None, {"a": "2"}), ManualClock()
    keys = Keys(source, clock)
    keys.having("a")
    clock.advance(7200)
    assert [keys.having("a") for _ in range(5)] == [{"a": "1"}] * 5
    assert source.asked == 2
    clock.advance(31)
    assert (keys.having("a"), source.asked) == ({"a": "1"}, 3)
    clock.advance(31)
    assert keys.having("a") == {"a": "2"}


def test_without_any_key_the_source_is_asked_each_time() -> None:
    source = Source(None, None, {"a": "1"})
    keys = Keys(source, ManualClock())
    for _ in range(2):
        with pytest.raises(Unavailable):
            keys.having("a")
    assert keys.having("a") == {"a": "1"}
