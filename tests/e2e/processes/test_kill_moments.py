"""A relay is killed, or frozen, at each moment that matters between its claim and its answer to the queue."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from contextlib import closing, contextmanager
from threading import Event
from typing import TYPE_CHECKING

import pytest
from standardwebhooks import Webhook
from werkzeug.wrappers import Response

from support.fleet import SECRET, Fleet
from support.hanging import Hanging
from support.raw_downstream import RawDownstream, says_and_stays
from traced_relay.tasks.ids import callback_id
from traced_relay.testing import Arrived, Downstream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.whole

AT_ONCE = {"max_attempts": 3, "min_backoff": "0s", "max_backoff": "0s", "jitter": "none"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@contextmanager
def opened(file: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False, timeout=10)) as database:
        yield database


def end_leases(file: Path) -> None:
    """As if nobody had given a sign of life for long; those who live give the next one within seconds."""
    with opened(file) as database:
        database.execute("UPDATE workers SET alive_until = 0")


class Locking:
    """Answers once the ledger is locked, so that what was answered cannot be committed; not before *accepted*."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self.accepted = Event()
        self.is_locked = Event()

    def __call__(self, _: Arrived) -> Response:
        self.accepted.wait(20)
        self._database.execute("BEGIN IMMEDIATE")
        self.is_locked.set()
        return Response("answered")


def test_a_kill_between_claim_and_call_leaves_the_task_to_the_next(tmp_path: Path, file: Path) -> None:
    with Fleet(tmp_path, 1, f"sqlite:{file}") as fleet, RawDownstream(says_and_stays(), reads=False) as silent:
        tls = f"https://127.0.0.1:{silent.port}/"  # the handshake never ends, and so nothing is sent
        task_id = fleet.enqueue(tls, idempotent=True, retry=AT_ONCE | {"max_attempts": 2}, timeout="2s")
        fleet.relays[0].wait_for("attempt.started", task_id=task_id)
        fleet.replace(0)
        end_leases(file)
        finished = fleet.relays[0].wait_for("task.finished", 40, task_id=task_id)
        attempts = fleet.document(task_id)["attempts"]
        assert silent.requests == []
    assert [attempt["reason"] for attempt in attempts] == ["worker_lost", "connect_failed"]
    assert (finished["state"], finished["attempt_count"]) == ("failed", 2)


@pytest.mark.parametrize("idempotent", [True, False])
def test_a_kill_before_the_result_is_committed_repeats_or_fails_it(
    tmp_path: Path, file: Path, idempotent: bool
) -> None:
    with Fleet(tmp_path, 1, f"sqlite:{file}") as fleet, opened(file) as database:
        locking = Locking(database)
        with Downstream(locking) as downstream:
            task_id = fleet.enqueue(downstream.url, idempotent=idempotent, retry=AT_ONCE)
            locking.accepted.set()
            assert locking.is_locked.wait(20)
            fleet.relays[0].kill()
            database.execute("ROLLBACK")
            fleet.replace(0)
            end_leases(file)
            finished = fleet.relays[0].wait_for("task.finished", 40, task_id=task_id)
            keys = [arrived.headers["idempotency-key"] for arrived in downstream.arrived]
        records = [r for r in fleet.records() if r.get("task_id") == task_id and r["event"] == "attempt.finished"]
    assert (finished["state"], finished["reason"]) == (("succeeded", None) if idempotent else ("failed", "worker_lost"))
    assert keys == [task_id] * (2 if idempotent else 1)
    assert [record["reason"] for record in records] == ["worker_lost", None][: len(keys)]


def test_a_redelivery_of_a_committed_attempt_sends_no_request(tmp_path: Path, file: Path) -> None:
    is_accepted = Event()
    with Fleet(tmp_path, 1, f"sqlite:{file}") as fleet, Downstream() as receiver:

        def freeze_the_queue(_: Arrived) -> Response:
            is_accepted.wait(20)
            fleet.queue.signal(signal.SIGSTOP)  # so that the callback's task cannot be made, and nothing answered
            return Response("answered")

        with Downstream(freeze_the_queue) as downstream:
            task_id = fleet.enqueue(downstream.url, callback={"url": receiver.url})
            is_accepted.set()
            fleet.relays[0].wait_for("task.finished", task_id=task_id)
            fleet.replace(0)
            fleet.queue.signal(signal.SIGCONT)
            fleet.relays[0].wait_for("task.finished", 40, task_id=callback_id(task_id, 1))
            assert len(downstream.arrived) == 1
        ends = [r for r in fleet.records() if r.get("task_id") == task_id and r["event"] == "task.finished"]
        assert len(receiver.arrived) == len(ends) == 1
        assert fleet.document(task_id)["callback"]["state"] == "delivered"


def test_a_callback_is_repeated_after_a_kill_with_its_id_and_body(tmp_path: Path, file: Path) -> None:
    with Fleet(tmp_path, 1, f"sqlite:{file}") as fleet, opened(file) as database, Downstream() as downstream:
        locking = Locking(database)
        with Downstream(locking) as receiver:
            task_id = fleet.enqueue(downstream.url, callback={"url": receiver.url})
            locking.accepted.set()
            assert locking.is_locked.wait(20)
            fleet.relays[0].kill()
            database.execute("ROLLBACK")
            fleet.replace(0)
            end_leases(file)
            fleet.relays[0].wait_for("task.finished", 40, task_id=callback_id(task_id, 1))
            first, second = receiver.arrived
    assert (first.body, first.headers["webhook-id"]) == (second.body, second.headers["webhook-id"])
    for told in (first, second):
        assert Webhook(SECRET).verify(told.body, dict(told.headers)) == json.loads(first.body)
    assert int(first.headers["webhook-timestamp"]) <= int(second.headers["webhook-timestamp"])


def test_a_frozen_relay_loses_its_task_and_writes_nothing_later(tmp_path: Path, file: Path) -> None:
    hang = Hanging(40)
    with Fleet(tmp_path, 2, f"sqlite:{file}") as fleet, Downstream(hang, Response("in time")) as downstream:
        task_id = fleet.enqueue(downstream.url, idempotent=True, retry=AT_ONCE)
        downstream.wait_for(1)
        (frozen,) = (relay for relay in fleet.relays if relay.said("attempt.started", task_id=task_id))
        (other,) = (relay for relay in fleet.relays if relay is not frozen)
        (worker,) = frozen.workers()
        os.kill(worker, signal.SIGSTOP)
        end_leases(file)
        other.wait_for("task.finished", 40, task_id=task_id)
        before = fleet.document(task_id)
        hang.release()
        os.kill(worker, signal.SIGCONT)
        swept = len(frozen.said("relay.swept"))
        frozen.wait_for_all(swept + 2, "relay.swept", 40)
        after = fleet.document(task_id)
    assert (before["state"], before["response"]["body"]) == ("succeeded", "in time")
    assert [attempt["reason"] for attempt in before["attempts"]] == ["worker_lost", None]
    assert after == before
    said = [(record["attempt"], record["reason"]) for record in frozen.said("attempt.finished", task_id=task_id)]
    assert said in ([], [(2, None)])
    assert len(downstream.arrived) == 2


def test_a_call_that_kills_its_worker_ends_after_its_attempts(tmp_path: Path, file: Path) -> None:
    is_accepted = Event()
    with Fleet(tmp_path, 1, f"sqlite:{file}") as fleet:

        def kill(_: Arrived) -> Response:
            is_accepted.wait(20)
            os.kill(fleet.relays[0].workers()[0], signal.SIGKILL)
            end_leases(file)
            return Response("nobody hears it")

        with Downstream(kill, kill, kill) as downstream:
            task_id = fleet.enqueue(downstream.url, idempotent=True, retry=AT_ONCE)
            is_accepted.set()
            finished = fleet.relays[0].wait_for("task.finished", 50, task_id=task_id)
            assert len(downstream.arrived) == 3
        assert len(fleet.relays[0].said("relay.started")) == 4
    assert (finished["state"], finished["reason"], finished["attempt_count"]) == ("failed", "worker_lost", 3)
