"""Many who want the same thing at the same time, and more than there is room for."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event
from typing import TYPE_CHECKING

import pytest
from werkzeug.wrappers import Response

from support.asking import Answer, ask, get, post
from support.schema import validate
from traced_relay.api.auth import ANONYMOUS
from traced_relay.config.settings import SPARE_THREADS
from traced_relay.tasks.ids import adopted_task_id, derived_id
from traced_relay.testing import Downstream, RunningRelay

if TYPE_CHECKING:
    from traced_relay.testing import Arrived

pytestmark = pytest.mark.whole

QUEUE = "projects/test-project/locations/us-central1/queues/relay"
EAGER = 20


def test_many_requests_with_one_key_all_get_one_task(relay: RunningRelay, downstream: Downstream) -> None:
    everybody_is_here = Barrier(EAGER)

    def enqueue(_: int) -> Answer:
        everybody_is_here.wait(10)
        return post(f"{relay.url}/v1/tasks", {"url": downstream.url}, Idempotency_Key="at-once")

    cursor, _ = relay.records.since(0)
    with ThreadPoolExecutor(EAGER) as pool:
        answers = list(pool.map(enqueue, range(EAGER)))
    task_id = derived_id(ANONYMOUS.name, "at-once")
    assert {answer.status for answer in answers} == {202}
    assert {(a.document["task_id"], a.document["task_name"], a.document["trace_id"]) for a in answers} == {
        (task_id, f"{QUEUE}/tasks/{task_id}-1", answers[0].document["trace_id"])
    }
    assert [record for record in relay.records.since(cursor)[1] if record["event"] == "enqueue.rejected"] == []
    assert relay.wait_for("task.finished", task_id)["state"] == "succeeded"
    assert enqueue_again(relay, downstream) == (202, task_id, "succeeded")
    assert relay.queue.wait_until_idle(10)
    assert len(downstream.arrived) == 1
    told = [record for record in relay.records.records(task_id) if record["event"] == "task.enqueued"]
    assert len({(record["logging.googleapis.com/insertId"], record["time"]) for record in told}) == 1
    sends = [span for span in relay.spans.spans() if span.name == "send relay"]
    assert [span.attributes["messaging.message.id"] for span in sends if span.attributes].count(task_id) == 1


def enqueue_again(relay: RunningRelay, downstream: Downstream) -> tuple[int, str, str]:
    answer = post(f"{relay.url}/v1/tasks", {"url": downstream.url}, Idempotency_Key="at-once")
    return answer.status, answer.document["task_id"], answer.document["state"]


def test_dispatches_beyond_the_limit_stay_in_the_queue() -> None:
    release, is_out = Event(), Event()

    def hang(_: Arrived) -> Response:
        is_out.set()
        release.wait(20)
        return Response("ok")

    with (
        RunningRelay(threads=SPARE_THREADS + 1) as relay,
        Downstream(hang) as downstream,
        ThreadPoolExecutor(1) as pool,
    ):

        def dispatch(task: str) -> int:
            headers = {"X-AppEngine-QueueName": "relay", "X-AppEngine-TaskName": task}
            body = json.dumps({"url": downstream.url}).encode()
            return ask("POST", f"{relay.url}/dispatch", body=body, headers=headers).status

        held = pool.submit(dispatch, "first")
        assert is_out.wait(10)
        assert [dispatch("second"), dispatch("second")] == [500, 500]
        for path in ("/health", "/ready", "/v1/tasks"):
            assert get(relay.url + path).status == 200
        running = get(f"{relay.url}/v1/tasks/{adopted_task_id(f'{QUEUE}/tasks/first')}").document
        assert running["state"] == "running"
        assert running["heartbeat_at"] is not None
        release.set()
        assert (held.result(20), dispatch("second")) == (200, 200)
    deferred = [record for record in relay.records.records() if record["event"] == "dispatch.deferred"]
    for record in deferred:
        validate(record)
    assert [(record["reason"], record["task_name"]) for record in deferred] == [
        ("capacity", f"{QUEUE}/tasks/second")
    ] * 2
    assert len(downstream.arrived) == 2
