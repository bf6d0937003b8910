from __future__ import annotations

from threading import Event, Thread
from typing import TYPE_CHECKING

import pytest

from traced_relay.api.readiness import NOT_READY_FOR, READY_FOR, Readiness
from traced_relay.errors import EnqueueFailed, RelayError, Unavailable
from traced_relay.ledger.sqlite import SqliteLedger
from traced_relay.runtime.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterator


class Queue:
    """A queue that can be made to fail, and counts its checks."""

    def __init__(self) -> None:
        self.failure: RelayError | None = None
        self.looks = 0

    def check_queue(self) -> None:
        self.looks += 1
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def ledger(clock: ManualClock) -> Iterator[SqliteLedger]:
    opened = SqliteLedger(clock)
    yield opened
    opened.close()


def test_a_positive_result_is_cached_for_10_s(clock: ManualClock, ledger: SqliteLedger) -> None:
    queue = Queue()
    readiness = Readiness(clock, ledger, queue.check_queue, lambda: None)
    assert [readiness.is_ready() for _ in range(5)] == [True] * 5
    queue.failure = Unavailable("away")
    clock.advance(READY_FOR - 0.1)
    assert readiness.is_ready()
    assert queue.looks == 1
    clock.advance(0.1)
    assert not readiness.is_ready()


@pytest.mark.parametrize("failure", [Unavailable("away"), EnqueueFailed("no such queue")])
def test_a_negative_result_is_cached_for_1_s(clock: ManualClock, ledger: SqliteLedger, failure: RelayError) -> None:
    queue = Queue()
    queue.failure = failure
    readiness = Readiness(clock, ledger, queue.check_queue, lambda: None)
    assert [readiness.is_ready() for _ in range(5)] == [False] * 5
    assert queue.looks == 1
    queue.failure = None
    clock.advance(NOT_READY_FOR)
    assert readiness.is_ready()


@pytest.mark.parametrize("was_ready", [True, False])
def test_a_hanging_check_blocks_one_thread_only(clock: ManualClock, ledger: SqliteLedger, was_ready: bool) -> None:
    hangs, looking, release = Event(), Event(), Event()

    def check_queue() -> None:
        if hangs.is_set():
            looking.set()
            release.wait(10)

    readiness = Readiness(clock, ledger, check_queue, lambda: None)
    if was_ready:
        assert readiness.is_ready()
    hangs.set()
    clock.advance(READY_FOR)
    one = Thread(target=readiness.is_ready)
    one.start()
    assert looking.wait(10)
    assert [readiness.is_ready() for _ in range(200)] == [was_ready] * 200
    release.set()
    one.join(10)
    assert readiness.is_ready()


def test_a_closed_ledger_is_not_ready(clock: ManualClock) -> None:
    ledger = SqliteLedger(clock)
    ledger.close()
    assert not Readiness(clock, ledger, Queue().check_queue, lambda: None).is_ready()


@pytest.mark.parametrize(
    ("refusal", "is_ready"), [(None, True), ("capacity", True), ("stopping", False), ("unavailable", False)]
)
def test_a_refusing_process_is_ready_only_at_capacity(
    clock: ManualClock, ledger: SqliteLedger, refusal: str | None, is_ready: bool
) -> None:
    assert Readiness(clock, ledger, Queue().check_queue, lambda: refusal).is_ready() is is_ready
