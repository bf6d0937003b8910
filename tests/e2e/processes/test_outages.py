"""What callers and tasks see while the queue is away, or the worker is not App Engine's."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import pytest
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from support.asking import ask, get, post
from support.place import QUEUE, QUEUE_ACCOUNT, Place
from traced_relay.tasks.ids import derived_id

if TYPE_CHECKING:
    from pathlib import Path

    from traced_relay.testing import Downstream

pytestmark = pytest.mark.whole

REPORTS = "reports@p.iam.gserviceaccount.com"


def test_an_unreachable_queue_refuses_calls_and_frees_their_keys(place: Place, downstream: Downstream) -> None:
    who, call = place.bearer(REPORTS), {"url": f"{downstream.url}/reports"}
    with place.relay() as relay, ThreadPoolExecutor(2) as pool:
        assert get(f"{place.url}/v1/tasks", **who).status == 200
        place.queue.send(signal.SIGKILL)
        plain = pool.submit(post, f"{place.url}/v1/tasks", call, **who)
        keyed = pool.submit(post, f"{place.url}/v1/tasks", call, **who, Idempotency_Key="k")
        assert [plain.result().status, keyed.result().status] == [503, 503]
        assert plain.result().headers["content-type"] == "application/problem+json"
        (kept,) = get(f"{place.url}/v1/tasks", **who).document["tasks"]
        assert (kept["task_id"], kept["state"]) == (derived_id(REPORTS, "k"), "queued")
        rejections = relay.wait_for_all(2, "enqueue.rejected")
        assert [record["reason"] for record in rejections] == ["unavailable"] * 2
        assert get(f"{place.url}/ready").status in (200, 503)
        place.restart_queue()
        with place.queue:
            again = post(f"{place.url}/v1/tasks", call, **who, Idempotency_Key="k")
            assert (again.status, again.document["task_id"]) == (202, kept["task_id"])
            assert relay.wait_for("task.finished", task_id=kept["task_id"])["state"] == "succeeded"
    assert len(downstream.arrived) == 1


def test_a_queue_that_is_back_in_time_gets_the_task_after_all(place: Place, downstream: Downstream) -> None:
    who, call = place.bearer(REPORTS), {"url": f"{downstream.url}/reports"}
    with place.relay() as relay, ThreadPoolExecutor(1) as pool:
        assert get(f"{place.url}/v1/tasks", **who).status == 200
        place.queue.send(signal.SIGKILL)
        asked = pool.submit(post, f"{place.url}/v1/tasks", call, **who)
        place.restart_queue()
        with place.queue:
            answer = asked.result()
            assert answer.status == 202, answer.document
            assert relay.wait_for("task.finished", task_id=answer.document["task_id"])["state"] == "succeeded"


def test_a_task_that_is_there_already_counts_as_made(place: Place, downstream: Downstream) -> None:
    who = place.bearer(REPORTS)
    task_id = derived_id(REPORTS, "made")
    with place.relay() as relay, grpc.insecure_channel(place.queue.address) as channel:
        client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
        body = f'{{"task_id":"{task_id}","attempt":1}}'.encode()
        request = {"relative_uri": "/dispatch", "body": body}
        client.pause_queue(name=QUEUE)
        client.create_task(
            parent=QUEUE, task={"name": f"{QUEUE}/tasks/{task_id}-1", "app_engine_http_request": request}
        )
        call = {"url": f"{downstream.url}/reports"}
        answer = post(f"{place.url}/v1/tasks", call, **who, Idempotency_Key="made")
        assert (answer.status, answer.document["task_id"]) == (202, task_id)
        client.resume_queue(name=QUEUE)
        assert relay.wait_for("task.finished", task_id=task_id)["state"] == "succeeded"
    assert len(downstream.arrived) == 1


def test_a_worker_behind_a_url_asks_for_the_queues_token(tmp_path: Path, downstream: Downstream) -> None:
    place = Place(tmp_path, downstream.url, by_token=True)
    with place.queue, place.relay() as relay:
        call = {"url": f"{downstream.url}/reports"}
        answer = post(f"{place.url}/v1/tasks", call, **place.bearer(REPORTS))
        assert relay.wait_for("task.finished", task_id=answer.document["task_id"])["state"] == "succeeded"
        too_long = post(f"{place.url}/v1/tasks", call | {"timeout": "30m"}, **place.bearer(REPORTS))
        assert too_long.document["errors"][0]["message"] == "must be at most 1785s, got 30m"
        names = {"X-CloudTasks-QueueName": "relay", "X-CloudTasks-TaskName": "t"}
        forged = {"X-AppEngine-QueueName": "relay", "X-AppEngine-TaskName": "t"}
        bare = f'{{"url": "{downstream.url}/reports"}}'.encode()
        for headers, status in [
            (names, 401),
            (forged, 401),
            (names | place.bearer(REPORTS), 403),
            (names | place.bearer(QUEUE_ACCOUNT, "https://another.example"), 401),
            (names | place.bearer(QUEUE_ACCOUNT), 200),
        ]:
            assert ask("POST", f"{place.url}/dispatch", body=bare, headers=headers).status == status
    assert len(downstream.arrived) == 2
