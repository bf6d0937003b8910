"""Every method through Google's own Python client, over gRPC and over REST alike."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from google.api_core import exceptions
from google.cloud.tasks_v2 import CloudTasksClient, HttpMethod, Queue, Task

if TYPE_CHECKING:
    from support.worker import Worker
    from traced_relay.emulator.emulator import LocalQueue

LOCATION = "projects/p/locations/europe-west1"
QUEUE = f"{LOCATION}/queues/reports"
pytestmark = pytest.mark.whole

NO_QUEUE = "Queue does not exist. If you just created the queue, wait at least a minute for the queue to initialize."
ENDED = (
    "The task no longer exists, though a task with this name existed recently. "
    "The task either successfully completed or was deleted."
)


@pytest.fixture
def paused(local: LocalQueue, client: CloudTasksClient) -> str:
    local.add_queue(QUEUE)
    client.pause_queue(name=QUEUE)
    return QUEUE


def http_task(task_id: str | None = None, **request: Any) -> dict[str, Any]:
    task: dict[str, Any] = {"http_request": {"url": "http://127.0.0.1:9/x"} | request}
    return task | ({"name": f"{QUEUE}/tasks/{task_id}"} if task_id else {})


def test_a_new_queue_runs_and_carries_productions_defaults(client: CloudTasksClient) -> None:
    created = client.create_queue(parent=LOCATION, queue={"name": QUEUE})
    assert (created.name, created.state) == (QUEUE, Queue.State.RUNNING)
    assert created.rate_limits.max_dispatches_per_second == 500
    assert created.rate_limits.max_concurrent_dispatches == 1000
    assert created.retry_config.max_attempts == 100
    assert created.retry_config.min_backoff == timedelta(seconds=0.1)
    assert created.retry_config.max_backoff == timedelta(seconds=3600)
    assert created.retry_config.max_doublings == 16
    assert client.get_queue(name=QUEUE) == created


def test_a_queue_is_made_once(client: CloudTasksClient) -> None:
    client.create_queue(parent=LOCATION, queue={"name": QUEUE})
    with pytest.raises(exceptions.Conflict, match="Queue already exists"):
        client.create_queue(parent=LOCATION, queue={"name": QUEUE})


def test_a_deleted_queues_name_stays_reserved(client: CloudTasksClient) -> None:
    client.create_queue(parent=LOCATION, queue={"name": QUEUE})
    client.delete_queue(name=QUEUE)
    with pytest.raises(exceptions.NotFound, match=NO_QUEUE):
        client.get_queue(name=QUEUE)
    with pytest.raises(exceptions.BadRequest, match="existed too recently"):
        client.create_queue(parent=LOCATION, queue={"name": QUEUE})


@pytest.mark.parametrize("method", ["get_queue", "pause_queue", "resume_queue", "purge_queue"])
def test_a_queue_that_never_was_is_not_found(client: CloudTasksClient, method: str) -> None:
    with pytest.raises(exceptions.NotFound, match=NO_QUEUE):
        getattr(client, method)(name=QUEUE)


def test_queues_are_listed_page_by_page(local: LocalQueue, client: CloudTasksClient) -> None:
    names = [f"{LOCATION}/queues/q{number}" for number in range(5)]
    for name in [*names, "projects/p/locations/us-central1/queues/elsewhere"]:
        local.add_queue(name)
    pages = list(client.list_queues(request={"parent": LOCATION, "page_size": 2}).pages)
    assert [len(page.queues) for page in pages] == [2, 2, 1]
    assert sorted(queue.name for page in pages for queue in page.queues) == names


def test_an_update_touches_what_its_mask_names(client: CloudTasksClient) -> None:
    client.create_queue(parent=LOCATION, queue={"name": QUEUE, "retry_config": {"max_attempts": 3}})
    updated = client.update_queue(
        queue={
            "name": QUEUE,
            "rate_limits": {"max_concurrent_dispatches": 7, "max_dispatches_per_second": 1.5},
            "retry_config": {"max_attempts": 9, "max_doublings": 2},
        },
        update_mask={"paths": ["rate_limits.max_concurrent_dispatches", "retry_config.max_doublings"]},
    )
    assert updated.rate_limits.max_concurrent_dispatches == 7
    assert updated.rate_limits.max_dispatches_per_second == 500
    assert updated.retry_config.max_attempts == 3
    assert updated.retry_config.max_doublings == 2
    assert client.get_queue(name=QUEUE) == updated


def test_a_queue_is_paused_and_resumed(client: CloudTasksClient) -> None:
    client.create_queue(parent=LOCATION, queue={"name": QUEUE})
    assert client.pause_queue(name=QUEUE).state == Queue.State.PAUSED
    assert client.resume_queue(name=QUEUE).state == Queue.State.RUNNING


def test_a_created_task_has_a_name_and_googles_defaults(paused: str, client: CloudTasksClient) -> None:
    task = client.create_task(parent=paused, task=http_task())
    assert task.name.startswith(f"{QUEUE}/tasks/")
    assert task.name.rpartition("/")[2].isdigit()
    assert task.http_request.http_method == HttpMethod.POST
    assert task.dispatch_deadline == timedelta(minutes=10)
    assert timedelta(0) <= task.schedule_time - task.create_time < timedelta(seconds=1)
    assert (task.dispatch_count, task.response_count, task.view) == (0, 0, Task.View.BASIC)


def test_only_the_full_view_shows_the_body(paused: str, client: CloudTasksClient) -> None:
    sent = http_task("viewed", body=b'{"report": 7}', headers={"content-type": "application/json"})
    full = client.create_task(request={"parent": paused, "task": sent, "response_view": "FULL"})
    basic = client.get_task(name=full.name)
    assert full.http_request.body == b'{"report": 7}'
    assert basic.http_request.body == b""
    assert basic.http_request.headers["content-type"] == "application/json"
    assert client.get_task(request={"name": full.name, "response_view": "FULL"}) == full


def test_tasks_are_listed_page_by_page_in_the_view_asked_for(paused: str, client: CloudTasksClient) -> None:
    for number in range(5):
        client.create_task(parent=paused, task=http_task(f"t{number}", body=b"x"))
    request = {"parent": paused, "page_size": 2, "response_view": "FULL"}
    pages = list(client.list_tasks(request=request).pages)
    assert [len(page.tasks) for page in pages] == [2, 2, 1]
    tasks = [task for page in pages for task in page.tasks]
    assert sorted(task.name[-2:] for task in tasks) == ["t0", "t1", "t2", "t3", "t4"]
    assert {task.http_request.body for task in tasks} == {b"x"}


def test_a_task_name_is_used_once(paused: str, client: CloudTasksClient) -> None:
    client.create_task(parent=paused, task=http_task("once"))
    with pytest.raises(exceptions.Conflict, match="Requested entity already exists"):
        client.create_task(parent=paused, task=http_task("once"))
    client.delete_task(name=f"{QUEUE}/tasks/once")
    with pytest.raises(exceptions.Conflict, match="Requested entity already exists"):
        client.create_task(parent=paused, task=http_task("once"))


def test_deleted_and_unknown_tasks_have_different_errors(paused: str, client: CloudTasksClient) -> None:
    client.create_task(parent=paused, task=http_task("was"))
    client.delete_task(name=f"{QUEUE}/tasks/was")
    with pytest.raises(exceptions.NotFound, match=ENDED):
        client.get_task(name=f"{QUEUE}/tasks/was")
    with pytest.raises(exceptions.NotFound, match=r"Requested entity was not found\."):
        client.get_task(name=f"{QUEUE}/tasks/never")


def test_a_task_needs_a_queue(client: CloudTasksClient) -> None:
    with pytest.raises(exceptions.NotFound, match=NO_QUEUE):
        client.create_task(parent=QUEUE, task=http_task())


def test_a_bad_task_id_is_refused_in_productions_words(paused: str, client: CloudTasksClient) -> None:
    with pytest.raises(exceptions.BadRequest) as refused:
        client.create_task(parent=paused, task=http_task("not a valid id"))
    assert (
        'Task ID "not a valid id" can contain only letters ([A-Za-z]), numbers ([0-9]), hyphens (-), '
        "or underscores (_). Task ID must between 1 and 500 characters."
    ) in str(refused.value)
    assert "https://cloud.google.com/tasks/docs/reference/" in str(refused.value.details)


def test_a_url_without_a_scheme_is_refused_in_productions_words(paused: str, client: CloudTasksClient) -> None:
    with pytest.raises(exceptions.BadRequest, match=r"HttpTarget\.url must start with 'http://' or 'https://'\."):
        client.create_task(parent=paused, task=http_task(url="example.com/x"))


def test_run_sends_a_task_although_its_queue_is_paused(paused: str, client: CloudTasksClient, worker: Worker) -> None:
    client.create_task(parent=paused, task=http_task("now", url=f"{worker.url}/run"))
    assert client.run_task(name=f"{QUEUE}/tasks/now").name == f"{QUEUE}/tasks/now"
    (arrival,) = worker.wait_for(1)
    assert (arrival.path, arrival.headers["x-cloudtasks-taskname"]) == ("/run", "now")


def test_a_purge_empties_the_queue(paused: str, client: CloudTasksClient, worker: Worker) -> None:
    client.create_task(parent=paused, task=http_task(url=worker.url))
    assert client.purge_queue(name=paused).name == paused
    assert list(client.list_tasks(parent=paused)) == []


def test_a_task_reaches_its_worker_completely(local: LocalQueue, client: CloudTasksClient, worker: Worker) -> None:
    local.add_queue(QUEUE)
    client.create_task(
        parent=QUEUE,
        task=http_task("sent", url=f"{worker.url}/x?y=1", http_method="PUT", body=b"\x00\xff", headers={"X-A": "1"}),
    )
    (arrival,) = worker.wait_for(1)
    assert (arrival.method, arrival.path, arrival.body) == ("PUT", "/x?y=1", b"\x00\xff")
    assert arrival.headers["x-a"] == "1"
    assert arrival.headers["x-cloudtasks-queuename"] == "reports"
    assert local.wait_until_idle(10)


def test_an_unserved_method_is_unimplemented(client: CloudTasksClient) -> None:
    for refused in (
        lambda: client.get_iam_policy(request={"resource": QUEUE}),
        lambda: client.test_iam_permissions(request={"resource": QUEUE, "permissions": ["cloudtasks.tasks.get"]}),
        lambda: client.list_locations(request={"name": "projects/p"}),
        lambda: client.get_cmek_config(name=f"{LOCATION}/cmekConfig"),
        lambda: client.batch_delete_tasks(request={"parent": QUEUE, "names": []}),
    ):
        with pytest.raises((exceptions.MethodNotImplemented, exceptions.ServerError), match="is not implemented by"):
            refused()
