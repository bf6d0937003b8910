"""A ledger that is full, locked or slow: nobody is told that something was kept which was not."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from support.asking import ask, get, post
from support.full_disk import full_disk
from traced_relay.relay.commit import COMMIT_RETRY_DELAY
from traced_relay.runtime.clock import SystemClock
from traced_relay.testing import Downstream, RunningRelay

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from threading import Condition

pytestmark = pytest.mark.whole

QUEUE_HEADERS = {"X-AppEngine-QueueName": "relay", "X-AppEngine-TaskName": "t"}
SOON = 20  # milliseconds that SQLite waits for a lock; else seconds


class ImpatientClock(SystemClock):
    """Has what could not be committed tried again at once."""

    def wait(self, condition: Condition, seconds: float | None) -> None:
        if seconds != COMMIT_RETRY_DELAY:
            super().wait(condition, seconds)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def full(_: Path) -> Iterator[None]:
    with full_disk(1):
        yield


@pytest.mark.parametrize("away", [full, locked])
def test_an_unwritable_ledger_answers_503_and_500_until_it_recovers(
    tmp_path: Path, downstream: Downstream, away: Any
) -> None:
    file = tmp_path / "ledger.db"
    with RunningRelay(ledger=file, clock=ImpatientClock()) as relay:
        relay.application.ledger._db.execute(f"PRAGMA busy_timeout={SOON}")
        waiting = post(f"{relay.url}/v1/tasks", {"url": downstream.url, "delay": "1h"}).document["task_id"]
        dispatch = f'{{"task_id":"{waiting}","attempt":1}}'.encode()
        with away(file):
            refused = post(f"{relay.url}/v1/tasks", {"url": downstream.url}, Idempotency_Key="k")
            cancelled = ask("POST", f"{relay.url}/v1/tasks/{waiting}:cancel")
            delivered = ask("POST", f"{relay.url}/dispatch", body=dispatch, headers=QUEUE_HEADERS)
            shown = get(f"{relay.url}/v1/tasks/{waiting}").document["state"]
        assert (refused.status, cancelled.status, delivered.status, shown) == (503, 503, 500, "queued")
        assert (downstream.arrived, len(get(f"{relay.url}/v1/tasks").document["tasks"])) == ([], 1)
        assert ask("POST", f"{relay.url}/dispatch", body=dispatch, headers=QUEUE_HEADERS).status == 200
        accepted = post(f"{relay.url}/v1/tasks", {"url": downstream.url}, Idempotency_Key="k")
        for task_id in (waiting, accepted.document["task_id"]):
            assert relay.wait_for("task.finished", task_id)["state"] == "succeeded"
    assert len(downstream.arrived) == 2


def test_a_slow_ledger_makes_waiting_longer_and_nothing_else(tmp_path: Path, downstream: Downstream) -> None:
    file = tmp_path / "ledger.db"
    with RunningRelay(ledger=file) as relay, ThreadPoolExecutor(1) as pool:
        with locked(file):
            asked = pool.submit(post, f"{relay.url}/v1/tasks", {"url": downstream.url})
            with pytest.raises(TimeoutError):
                asked.result(0.3)
        answer = asked.result(10)
        assert answer.status == 202
        assert relay.wait_for("task.finished", answer.document["task_id"])["attempt_count"] == 1
