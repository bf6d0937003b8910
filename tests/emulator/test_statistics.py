"""A queue as v2beta3 shows it, through Google's client over either wire, and its numbers by the engine's own clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from google.api_core import exceptions
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import tasks_v2beta3
from google.cloud.tasks_v2beta3.services.cloud_tasks.transports import CloudTasksGrpcTransport
from google.protobuf.field_mask_pb2 import FieldMask

from support.rig import DEADLINE, HTTP, QUEUE, UNREACHABLE, Rig
from traced_relay.emulator import messages as m
from traced_relay.emulator.methods import METHODS
from traced_relay.emulator.rates import LastMinute

if TYPE_CHECKING:
    from collections.abc import Iterator

    import grpc

    from traced_relay.emulator.emulator import LocalQueue

ALL_STATS = FieldMask(paths=["stats"])


def stats(rig: Rig) -> Any:
    return rig.call("v2beta3.GetQueue", name=QUEUE, read_mask=ALL_STATS).stats


def test_statistics_count_waiting_and_running_tasks() -> None:
    rig = Rig()
    rig.make_queue(rate_limits={"max_dispatches_per_second": 10})
    assert stats(rig) == m.QueueStats(effective_execution_rate=10)

    rig.create("later", delay=60)
    rig.create("now")
    out = rig.due_one()
    seen = stats(rig)
    assert (seen.tasks_count, seen.concurrent_dispatches_count) == (2, 1)
    assert seen.oldest_estimated_arrival_time.ToSeconds() == rig.now + 60

    rig.finish(out)
    seen = stats(rig)
    assert (seen.tasks_count, seen.concurrent_dispatches_count, seen.executed_last_minute_count) == (1, 0, 1)


def test_the_oldest_time_of_a_paused_queue_can_be_past() -> None:
    rig = Rig()
    rig.make_queue()
    rig.call("PauseQueue", name=QUEUE)
    rig.create("t")
    was_due = rig.now
    assert rig.pass_time(300) == []
    assert stats(rig).oldest_estimated_arrival_time.ToSeconds() == was_due


def test_executed_counts_failures_but_not_missing_responses() -> None:
    rig = Rig()
    rig.make_queue(rate_limits={"max_burst_size": 500})
    for task, answer in (("a", 200), ("b", 500), ("c", 404), ("d", DEADLINE), ("e", UNREACHABLE)):
        rig.create(task)
        rig.finish(rig.due_one(), answer)
    assert stats(rig).executed_last_minute_count == 3


def test_an_overloaded_worker_lowers_the_shown_rate() -> None:
    rig = Rig()
    rig.make_queue(rate_limits={"max_dispatches_per_second": 8})
    rig.create("t")
    rig.finish(rig.due_one(), 503)
    assert stats(rig).effective_execution_rate == 4


def test_counts_expire_after_a_minute() -> None:
    minute = LastMinute()
    for second in range(1000, 1200):
        minute.add(second + 0.5)
        minute.add(second + 0.9)
    assert minute.count(1199.95) == 120
    assert [minute.count(1199.9 + later) for later in (1, 30, 59, 60)] == [118, 60, 2, 0]


@pytest.fixture(params=["grpc", "rest"])
def beta(
    request: pytest.FixtureRequest, local: LocalQueue, channel: grpc.Channel
) -> Iterator[tasks_v2beta3.CloudTasksClient]:
    if request.param == "grpc":
        yield tasks_v2beta3.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
        return
    options = ClientOptions(api_endpoint=local.rest_url)
    with tasks_v2beta3.CloudTasksClient(
        transport="rest", credentials=AnonymousCredentials(), client_options=options
    ) as client:
        yield client


def test_without_a_mask_only_the_statistics_are_missing(
    local: LocalQueue, beta: tasks_v2beta3.CloudTasksClient
) -> None:
    override = m.AppEngineRouting(service="reports")
    local.add_queue(QUEUE, rate_limits=m.RateLimits(max_dispatches_per_second=7), app_engine_routing_override=override)
    queue = beta.get_queue(name=QUEUE)
    assert (queue.name, queue.state, queue.type_) == (QUEUE, queue.State.RUNNING, queue.Type.PUSH)
    assert (queue.rate_limits.max_dispatches_per_second, queue.retry_config.max_attempts) == (7, 100)
    assert queue.app_engine_http_queue.app_engine_routing_override.service == "reports"
    assert (queue.task_ttl.days, queue.tombstone_ttl.seconds, "stats" in queue) == (31, 3600, False)


def test_a_mask_selects_exactly_its_fields(local: LocalQueue, beta: tasks_v2beta3.CloudTasksClient) -> None:
    local.add_queue(QUEUE)
    local.service.call("PauseQueue", METHODS["PauseQueue"].request(name=QUEUE))
    task = m.Task(http_request=m.HttpRequest(**HTTP))
    local.service.call("CreateTask", METHODS["CreateTask"].request(parent=QUEUE, task=task))
    queue = beta.get_queue(request={"name": QUEUE, "read_mask": FieldMask(paths=["state", "stats.tasks_count"])})
    assert queue == tasks_v2beta3.Queue(state=queue.State.PAUSED, stats={"tasks_count": 1})


def test_missing_queues_get_the_errors_of_v2(local: LocalQueue, beta: tasks_v2beta3.CloudTasksClient) -> None:
    with pytest.raises(exceptions.NotFound, match="Queue does not exist"):
        beta.get_queue(name=QUEUE)
    local.add_queue(QUEUE)
    with pytest.raises(exceptions.BadRequest, match="names a field that a queue does not have"):
        beta.get_queue(request={"name": QUEUE, "read_mask": FieldMask(paths=["depth"])})
    with pytest.raises(exceptions.MethodNotImplemented):
        beta.pause_queue(name=QUEUE)
