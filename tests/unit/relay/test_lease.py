from __future__ import annotations

import io
import logging
from threading import Condition
from typing import TYPE_CHECKING

import pytest

from support.example_rows import NOW, row
from support.full_disk import full_disk
from traced_relay.api.readiness import Readiness
from traced_relay.cloud_tasks.delivery import Delivery, Dispatch
from traced_relay.ledger.sqlite import SqliteLedger
from traced_relay.logs.writer import Identity, Log
from traced_relay.relay.lease import LEASE, RENEW_EVERY, LeaseKeeper
from traced_relay.relay.running_calls import RunningCalls
from traced_relay.relay.task_log import TaskLog
from traced_relay.runtime.clock import ManualClock
from traced_relay.runtime.periodic import RETRY_AFTER
from traced_relay.tasks.state_machine import Holder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class WatchedClock(ManualClock):
    """Counts the threads that wait on it, so that a test advances it only then."""

    def __init__(self) -> None:
        super().__init__(NOW)
        self._waited: list[Condition] = []
        self._waits = Condition()

    def wait(self, condition: Condition, seconds: float | None) -> None:
        with self._waits:
            self._waited.append(condition)
            self._waits.notify_all()
        super().wait(condition, seconds)

    def wait_for_waits(self, count: int) -> None:
        with self._waits:
            assert self._waits.wait_for(lambda: len(self._waited) >= count, 5)
        with self._waited[-1]:  # free again once its holder sleeps
            pass


@pytest.fixture
def clock() -> WatchedClock:
    return WatchedClock()


@pytest.fixture
def ledger(clock: WatchedClock) -> Iterator[SqliteLedger]:
    opened = SqliteLedger(clock)
    yield opened
    opened.close()


def calls(ledger: SqliteLedger, clock: ManualClock) -> RunningCalls:
    task_log = TaskLog(Log(Identity("p", "v", "i"), stream=io.StringIO(), clock=clock), "queues")
    return RunningCalls(clock, task_log, ledger, worker="w1", capacity=9, heartbeat=60)


def holder(ledger: SqliteLedger) -> Holder:
    return ledger.holder_of(row(state="running", worker="w1"))


def test_a_worker_lives_as_long_as_its_lease_is_renewed(clock: WatchedClock, ledger: SqliteLedger) -> None:
    lease_keeper = LeaseKeeper(ledger, "w1", clock, calls(ledger, clock))
    assert holder(ledger) is Holder.LOST
    lease_keeper.start()
    for beats in range(20):
        clock.wait_for_waits(beats + 1)
        assert (holder(ledger), ledger.heartbeats({"w1"})) == (Holder.ALIVE, {"w1": NOW + beats * RENEW_EVERY})
        clock.advance(RENEW_EVERY)
    lease_keeper.stop()


def test_a_worker_lives_until_its_last_lease_ends(clock: WatchedClock, ledger: SqliteLedger) -> None:
    lease_keeper = LeaseKeeper(ledger, "w1", clock, calls(ledger, clock))
    lease_keeper.start()
    lease_keeper.stop()
    clock.advance(LEASE - 0.1)
    assert holder(ledger) is Holder.ALIVE
    clock.advance(0.1)
    assert holder(ledger) is Holder.LOST


def test_a_renewal_does_not_revive_a_stopped_worker(clock: WatchedClock, ledger: SqliteLedger) -> None:
    lease_keeper = LeaseKeeper(ledger, "w1", clock, calls(ledger, clock))
    lease_keeper.start()
    ledger.stop("w1", [])
    for beats in (1, 2):
        clock.wait_for_waits(beats)
        clock.advance(RENEW_EVERY)
    clock.wait_for_waits(3)
    lease_keeper.stop()
    assert holder(ledger) is Holder.STOPPED


def test_a_lease_outlives_two_missed_renewals(clock: WatchedClock, ledger: SqliteLedger) -> None:
    ledger.keep_alive("w1", LEASE)
    clock.advance(2 * RENEW_EVERY)
    assert holder(ledger) is Holder.ALIVE
    clock.advance(RENEW_EVERY)
    assert holder(ledger) is Holder.LOST


def test_a_failed_renewal_is_logged_and_repeated(clock: WatchedClock, caplog: pytest.LogCaptureFixture) -> None:
    ledger = SqliteLedger(clock)
    lease_keeper = LeaseKeeper(ledger, "w1", clock, calls(ledger, clock))
    lease_keeper.start()
    ledger.close()
    with caplog.at_level(logging.WARNING, "traced_relay.runtime.periodic"):
        for beats in (1, 2):
            clock.wait_for_waits(beats)
            clock.advance(RENEW_EVERY)
        clock.wait_for_waits(3)
        lease_keeper.stop()
    assert len(caplog.messages) == 2
    assert set(caplog.messages) == {caplog.messages[0]}
    assert caplog.messages[0].startswith("the lease renewal: the ledger cannot be used")


def test_a_worker_refuses_calls_while_its_lease_is_not_written(clock: WatchedClock, tmp_path: Path) -> None:
    ledger = SqliteLedger(clock, tmp_path / "ledger")
    lease_keeper = LeaseKeeper(ledger, "w1", clock, calls(ledger, clock))
    readiness = Readiness(clock, ledger, lambda: None, lease_keeper.refusal)
    assert not readiness.is_ready()
    lease_keeper.start()
    assert readiness.is_ready()
    with full_disk(0):
        clock.wait_for_waits(1)
        clock.advance(RENEW_EVERY)
        clock.wait_for_waits(2)
        assert ledger.get("") is None  # reading goes on
        written = (tmp_path / "ledger-wal").read_bytes()
        assert [readiness.is_ready() for _ in range(5)] == [False] * 5
        assert (tmp_path / "ledger-wal").read_bytes() == written
    clock.advance(RETRY_AFTER)
    clock.wait_for_waits(3)
    assert readiness.is_ready()
    lease_keeper.stop()
    ledger.close()


def test_a_lapsed_lease_makes_the_keeper_read_its_rows(clock: WatchedClock, ledger: SqliteLedger) -> None:
    running = calls(ledger, clock)
    lease_keeper = LeaseKeeper(ledger, "w1", clock, running)
    lease_keeper.start()
    cancelled, judged = (row(task_id=c * 32, state="running", worker="w1", attempt=1) for c in "ab")
    for stored in (cancelled, judged):
        ledger.insert(stored)
    delivery = Delivery(Dispatch("relay", "t"), "t", 1, None, trace_rewritten=False)
    with running.hold(cancelled, delivery) as one, running.hold(judged, delivery) as two:
        ledger.abort("w1", cancelled.attempt_name)
        clock.wait_for_waits(1)
        clock.advance(RENEW_EVERY)
        clock.wait_for_waits(2)
        assert (one.aborted_by, two.aborted_by) == ("cancelled", None)
        ledger.replace(judged.changed(state="waiting", worker=None, revision=2))
        clock.advance(RENEW_EVERY)
        clock.wait_for_waits(3)
        assert two.aborted_by is None  # nobody may judge what lives; so nobody looks
        clock.advance(LEASE + RENEW_EVERY)
        clock.wait_for_waits(4)
        assert two.aborted_by == "cancelled"
    lease_keeper.stop()
