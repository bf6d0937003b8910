from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING

import pytest

from traced_relay.api.auth import CertificateCache, Certificates
from traced_relay.errors import Unavailable
from traced_relay.runtime.clock import ManualClock
from traced_relay.runtime.refreshing import RETRY_AFTER_NOTHING

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


def test_certificates_are_fetched_once_an_hour() -> None:
    source, clock = Source({"a": "1"}, {"a": "2"}), ManualClock()
    keys = CertificateCache(source, clock)
    assert [keys.having("a"), keys.having("a")] == [{"a": "1"}] * 2
    clock.advance(3599)
    assert (keys.having("a"), source.asked) == ({"a": "1"}, 1)
    clock.advance(1)
    assert (keys.having("a"), source.asked) == ({"a": "2"}, 2)


def test_an_unknown_key_id_refetches_at_most_every_30_s() -> None:
    source, clock = Source({"a": "1"}, {"a": "1"}, {"a": "1", "b": "2"}), ManualClock()
    keys = CertificateCache(source, clock)
    keys.having("a")
    clock.advance(31)
    assert [keys.having("b") for _ in range(5)] == [{"a": "1"}] * 5
    assert source.asked == 2
    clock.advance(31)
    assert keys.having("b") == {"a": "1", "b": "2"}


def test_old_certificates_are_used_while_the_source_fails() -> None:
    source, clock = Source({"a": "1"}, None, None, {"a": "2"}), ManualClock()
    keys = CertificateCache(source, clock)
    keys.having("a")
    clock.advance(7200)
    assert [keys.having("a") for _ in range(5)] == [{"a": "1"}] * 5
    assert source.asked == 2
    clock.advance(31)
    assert (keys.having("a"), source.asked) == ({"a": "1"}, 3)
    clock.advance(31)
    assert keys.having("a") == {"a": "2"}


def test_a_failed_first_fetch_is_retried_soon() -> None:
    source, clock = Source(None, None, {"a": "1"}), ManualClock()
    keys = CertificateCache(source, clock)
    for asked in (1, 2):
        for _ in range(3):
            with pytest.raises(Unavailable):
                keys.having("a")
        assert source.asked == asked
        clock.advance(RETRY_AFTER_NOTHING + 0.1)
    assert keys.having("a") == {"a": "1"}


def test_concurrent_callers_share_one_failed_fetch() -> None:
    everybody_is_here, asked = Barrier(10), []

    def away() -> Certificates:
        asked.append(1)
        raise Unavailable("away")

    keys = CertificateCache(away, ManualClock())

    def ask(_: int) -> str:
        everybody_is_here.wait(10)
        with pytest.raises(Unavailable) as refused:
            keys.having("a")
        return str(refused.value)

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(ask, range(10)))
    assert (len(asked), set(answers)) == (1, {"no certificates available to verify ID tokens"})
