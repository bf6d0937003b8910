"""Leases, stopped workers and abort requests, in every ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.example_rows import NOW, TASK_ID, row
from traced_relay.ledger.protocol import WORKERS_KEPT
from traced_relay.tasks.state_machine import Holder

if TYPE_CHECKING:
    from support.ledgers import Store
    from traced_relay.ledger.protocol import Ledger
    from traced_relay.runtime.clock import ManualClock


WORKERS = {"w1", "w2", "w3"}


def holder(ledger: Ledger, worker: str = "w1", task_id: str = TASK_ID) -> Holder:
    return ledger.holder_of(row(task_id=task_id, state="running", worker=worker))


def test_a_worker_lives_until_its_lease_ends(ledger: Ledger, clock: ManualClock) -> None:
    assert holder(ledger) is Holder.LOST
    ledger.keep_alive("w1", 15)
    clock.advance(14.9)
    assert (holder(ledger), holder(ledger, "w2")) == (Holder.ALIVE, Holder.LOST)
    ledger.keep_alive("w1", 15)
    clock.advance(14.9)
    assert holder(ledger) is Holder.ALIVE
    clock.advance(0.1)
    assert holder(ledger) is Holder.LOST


def test_a_stopped_worker_names_its_unsent_attempts(ledger: Ledger, clock: ManualClock) -> None:
    ledger.keep_alive("w1", 15)
    ledger.keep_alive("w2", 15)
    ledger.stop("w1", ["a-0", "b-0"])
    assert [holder(ledger, task_id=task_id) for task_id in ("a", "b", "c", "")] == [
        *(Holder.STOPPED_UNSENT, Holder.STOPPED_UNSENT),
        *(Holder.STOPPED, Holder.STOPPED),
    ]
    assert holder(ledger, "w2", "a") is Holder.ALIVE
    clock.advance(60)
    assert holder(ledger, task_id="a") is Holder.STOPPED_UNSENT


def test_a_worker_without_a_lease_may_stop(ledger: Ledger) -> None:
    ledger.stop("w1", [])
    assert holder(ledger) is Holder.STOPPED


def test_a_stopped_worker_stays_stopped(ledger: Ledger, clock: ManualClock) -> None:
    ledger.keep_alive("w1", 15)
    ledger.stop("w1", ["a-0"])
    clock.advance(5)
    ledger.keep_alive("w1", 15)
    assert (holder(ledger), holder(ledger, task_id="a")) == (Holder.STOPPED, Holder.STOPPED_UNSENT)
    assert ledger.heartbeats(WORKERS) == {"w1": NOW}


def test_a_heartbeat_is_a_workers_last_renewal(ledger: Ledger, clock: ManualClock) -> None:
    assert ledger.heartbeats(WORKERS) == {}
    ledger.keep_alive("w1", 15)
    ledger.keep_alive("w2", 15)
    clock.advance(5)
    ledger.keep_alive("w1", 15)
    assert ledger.heartbeats(WORKERS) == {"w1": NOW + 5, "w2": NOW}


def test_workers_without_a_lease_for_long_are_deleted(ledger: Ledger, clock: ManualClock) -> None:
    ledger.keep_alive("w1", 15)
    ledger.stop("w2", ["a-0"])
    clock.advance(WORKERS_KEPT)
    ledger.keep_alive("w3", 15)
    ledger.expire(10)
    assert holder(ledger, "w2", "a") is Holder.STOPPED_UNSENT
    clock.advance(16)
    ledger.keep_alive("w3", 15)
    ledger.expire(10)
    assert ledger.heartbeats(WORKERS) == {"w3": NOW + WORKERS_KEPT + 16}
    assert holder(ledger, "w2", "a") is Holder.LOST


def test_a_process_sees_the_status_of_another_ones_worker(store: Store) -> None:
    one, other = store.open(), store.open()
    one.keep_alive("w1", 15)
    assert holder(other) is Holder.ALIVE
    other.abort("w1", "a")
    assert one.keep_alive("w1", 15) == ["a"]
    one.stop("w1", [f"{TASK_ID}-0"])
    assert holder(other) is Holder.STOPPED_UNSENT


def test_a_worker_gets_each_abort_request_once(ledger: Ledger) -> None:
    assert ledger.keep_alive("w1", 15) == []
    for task_id in ("a", "b", "a"):
        ledger.abort("w1", task_id)
    assert sorted(ledger.keep_alive("w1", 15)) == ["a", "b"]
    assert ledger.keep_alive("w1", 15) == []
    ledger.abort("w1", "a")
    assert ledger.keep_alive("w1", 15) == ["a"]


def test_an_abort_reaches_its_own_worker_only(ledger: Ledger) -> None:
    ledger.keep_alive("w1", 15)
    ledger.keep_alive("w2", 15)
    ledger.abort("w1", "a")
    ledger.abort("unknown", "b")
    assert (ledger.keep_alive("w2", 15), ledger.keep_alive("unknown", 15)) == ([], [])
    assert ledger.keep_alive("w1", 15) == ["a"]


def test_an_abort_request_renews_no_lease(ledger: Ledger, clock: ManualClock) -> None:
    ledger.keep_alive("w1", 15)
    clock.advance(15)
    ledger.abort("w1", "a")
    assert holder(ledger) is Holder.LOST
    assert ledger.heartbeats(WORKERS) == {"w1": NOW}


def test_only_unsent_attempts_are_retried_as_unsent(ledger: Ledger) -> None:
    ledger.stop("w1", [f"{TASK_ID}-1"])
    one, two = (row(state="running", worker="w1", attempt=number) for number in (1, 2))
    assert (ledger.holder_of(one), ledger.holder_of(two)) == (Holder.STOPPED_UNSENT, Holder.STOPPED)


def test_no_workers_have_no_heartbeats(ledger: Ledger) -> None:
    ledger.keep_alive("w1", 15)
    assert (ledger.heartbeats(()), ledger.heartbeats({"w2"})) == ({}, {})
