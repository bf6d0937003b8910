"""Downstreams that are in trouble, and what that is to all others; deliveries that come in the wrong order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support.asking import ask, get, post
from support.hanging import Hanging
from traced_relay.testing import Downstream, ManualClock, RunningRelay

if TYPE_CHECKING:
    from collections.abc import Iterable

pytestmark = pytest.mark.whole

LATER = {"min_backoff": "10s", "max_backoff": "10s", "jitter": "none"}
MANY = 12


def enqueued(relay: RunningRelay, url: str, count: int = 1, **fields: Any) -> list[str]:
    tasks = [{"url": url} | fields] * count
    answer = post(f"{relay.url}/v1/tasks:batch", {"tasks": tasks})
    return [receipt["task_id"] for receipt in answer.document["tasks"]]


def documents(relay: RunningRelay, task_ids: Iterable[str]) -> list[dict[str, Any]]:
    return [get(f"{relay.url}/v1/tasks/{task_id}").document for task_id in task_ids]


def finished(relay: RunningRelay, task_ids: Iterable[str]) -> list[tuple[str, int]]:
    ends = [relay.wait_for("task.finished", task_id) for task_id in task_ids]
    return [(end["state"], end["attempt_count"]) for end in ends]


def test_a_flaky_downstream_delays_no_other(timeless: RunningRelay, clock: ManualClock, downstream: Downstream) -> None:
    with Downstream(*[503, 200] * (MANY // 2)) as flaky:
        bad = enqueued(timeless, flaky.url, MANY, retry=LATER)
        good = enqueued(timeless, downstream.url, MANY)
        assert finished(timeless, good) == [("succeeded", 1)] * MANY  # though no time goes by
        for task_id in bad:
            timeless.wait_for("attempt.finished", task_id)
        states = [document["state"] for document in documents(timeless, bad)]
        assert sorted(states) == ["succeeded"] * (MANY // 2) + ["waiting"] * (MANY // 2)
        clock.advance(10)
        assert {state for state, _ in finished(timeless, bad)} == {"succeeded"}


def test_a_hanging_downstream_delays_no_other(timeless: RunningRelay, downstream: Downstream) -> None:
    hang = Hanging()
    with Downstream(*[hang] * MANY) as hanging:
        stuck = enqueued(timeless, hanging.url, MANY)
        hanging.wait_for(MANY)
        good = enqueued(timeless, downstream.url, MANY)
        assert finished(timeless, good) == [("succeeded", 1)] * MANY
        assert {document["state"] for document in documents(timeless, stuck)} == {"running"}
        hang.release()
        assert finished(timeless, stuck) == [("succeeded", 1)] * MANY


def test_all_failing_calls_are_tried_to_their_limit(timeless: RunningRelay, clock: ManualClock) -> None:
    with Downstream(*[503] * 3 * MANY) as down:
        tasks = enqueued(timeless, down.url, MANY, retry={"max_attempts": 3, "min_backoff": "10s"})
        for number in (1, 2):
            for task_id in tasks:
                assert timeless.records.wait_for("attempt.finished", task_id, 10, nth=number)
            clock.advance(20)
        assert finished(timeless, tasks) == [("failed", 3)] * MANY
        assert {document["reason"] for document in documents(timeless, tasks)} == {"http_503"}
        assert timeless.queue.wait_until_idle(10)
        assert len(down.arrived) == 3 * MANY


def test_only_the_awaited_dispatch_makes_a_call(timeless: RunningRelay, clock: ManualClock) -> None:
    with Downstream(503) as downstream:
        (task_id,) = enqueued(timeless, downstream.url, retry=LATER)
        timeless.wait_for("attempt.finished", task_id)
        assert [deliver(timeless, task_id, number) for number in (3, 1, 7)] == [200] * 3
        assert len(downstream.arrived) == 1
        clock.advance(10)
        assert finished(timeless, [task_id]) == [("succeeded", 2)]
        assert [deliver(timeless, task_id, number) for number in (1, 2, 3)] == [200] * 3
        assert len(downstream.arrived) == 2
    events = [record["event"] for record in timeless.records.records(task_id)]
    assert (events.count("attempt.started"), events.count("task.finished")) == (2, 1)


def deliver(relay: RunningRelay, task_id: str, number: int) -> int:
    headers = {"X-AppEngine-QueueName": "relay", "X-AppEngine-TaskName": f"{task_id}-{number}"}
    body = f'{{"task_id":"{task_id}","attempt":{number}}}'.encode()
    return ask("POST", f"{relay.url}/dispatch", body=body, headers=headers).status
