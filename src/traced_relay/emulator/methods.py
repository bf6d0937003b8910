"""The methods of Cloud Tasks v2, and one of v2beta3: each turns a request into a response. Pure, as the engine is."""

from __future__ import annotations

import base64
import re
from copy import deepcopy
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from google.cloud.tasks_v2 import types
from google.cloud.tasks_v2beta3 import types as beta_types
from google.protobuf.json_format import MessageToDict, ParseDict
from grpc import StatusCode

from traced_relay.emulator import messages as m
from traced_relay.emulator import queue_rules, resource_names, task_rules
from traced_relay.emulator.backoff import RETENTION
from traced_relay.emulator.engine import TASK_NAME_WINDOW
from traced_relay.emulator.errors import (
    ApiError,
    invalid,
    not_found,
    task_existed_recently,
    unimplemented,
)
from traced_relay.emulator.task_rules import set_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from traced_relay.emulator.engine import Engine
    from traced_relay.emulator.state import QueueState, TaskState

MOST_QUEUES, MOST_TASKS = 9800, 1000
_SERIAL = re.compile("[0-9]{19}")


def create_queue(engine: Engine, request: m.Request, now: float) -> m.Queue:
    resource_names.check_location(request.parent)
    resource_names.check_queue_in(request.queue.name, request.parent)
    if request.queue.name in engine.queues:
        raise ApiError(StatusCode.ALREADY_EXISTS, "Queue already exists")
    return _new_queue(engine, request.queue, now)


def get_queue(engine: Engine, request: m.Request, now: float) -> m.Queue:  # noqa: ARG001
    return _queue(engine, request.name).message


def get_beta_queue(engine: Engine, request: m.Request, now: float) -> m.BetaQueue:
    """The fields that the read mask names; without a mask all but the statistics."""
    queue, mask = _queue(engine, request.name), request.read_mask
    if not mask.IsValidForDescriptor(m.BetaQueue.DESCRIPTOR):
        raise invalid("The read mask names a field that a queue does not have.")
    whole = _converted(queue)
    if not mask.paths:
        return whole
    _fill_statistics(queue, whole.stats, now)
    selected = m.BetaQueue()
    mask.MergeMessage(whole, selected)
    return selected


def list_queues(engine: Engine, request: m.Request, now: float) -> m.ListQueuesResponse:  # noqa: ARG001
    resource_names.check_location(request.parent)
    if request.filter:
        raise unimplemented("ListQueuesRequest.filter")
    below = request.parent + "/queues/"
    found = sorted((name, queue.message) for name, queue in engine.queues.items() if name.startswith(below))
    page, token = _page_of(found, request.page_size, request.page_token, most=MOST_QUEUES)
    return m.ListQueuesResponse(queues=page, next_page_token=token)


def update_queue(engine: Engine, request: m.Request, now: float) -> m.Queue:
    """Update the queue, or create it."""
    resource_names.check_queue(request.queue.name)
    queue = engine.queues.get(request.queue.name)
    if queue is None:
        return _new_queue(engine, request.queue, now)
    message = queue_rules.updated_queue(queue.message, request.queue, request.update_mask.paths)
    return _configure(engine, queue, message, now)


def delete_queue(engine: Engine, request: m.Request, now: float) -> m.Empty:
    resource_names.check_queue(request.name)
    queue = engine.queues.get(request.name)
    if queue is None:
        raise not_found()
    engine.delete_queue(queue, now)
    return m.Empty()


def purge_queue(engine: Engine, request: m.Request, now: float) -> m.Queue:
    queue = _queue(engine, request.name)
    engine.purge(queue, now)
    message = deepcopy(queue.message)
    set_time(message.purge_time, now)
    return _configure(engine, queue, message, now)


def pause_queue(engine: Engine, request: m.Request, now: float) -> m.Queue:
    return _set_state(engine, request.name, m.PAUSED, now)


def resume_queue(engine: Engine, request: m.Request, now: float) -> m.Queue:
    return _set_state(engine, request.name, m.RUNNING, now)


def create_task(engine: Engine, request: m.Request, now: float) -> m.Task:
    queue = _queue(engine, request.parent)
    is_named = bool(request.task.name)
    task_id = resource_names.check_task_in(request.task.name, queue.name) if is_named else engine.new_id(queue, now)
    message = task_rules.task_to_store(request.task, f"{queue.name}/tasks/{task_id}", now)
    if is_named and engine.is_taken(queue, task_id, now):
        raise ApiError(StatusCode.ALREADY_EXISTS, "Requested entity already exists")
    return engine.add_task(queue, message, now, is_named=is_named).to_message(request.response_view)


def get_task(engine: Engine, request: m.Request, now: float) -> m.Task:
    return _task(engine, request.name, now).to_message(request.response_view)


def list_tasks(engine: Engine, request: m.Request, now: float) -> m.ListTasksResponse:  # noqa: ARG001
    queue = _queue(engine, request.parent)
    after = _last_key(request.page_token)
    if after and not _SERIAL.fullmatch(after):
        raise invalid("The page token is invalid.")
    found = ((f"{task.serial:019d}", task) for task in queue.tasks.after(int(after or 0)))
    page, token = _page_of(found, request.page_size, request.page_token, most=MOST_TASKS)
    response = m.ListTasksResponse(next_page_token=token)
    for task in page:
        task.fill(response.tasks.add(), request.response_view)
    return response


def delete_task(engine: Engine, request: m.Request, now: float) -> m.Empty:
    engine.delete_task(_task(engine, request.name, now), now)
    return m.Empty()


def run_task(engine: Engine, request: m.Request, now: float) -> m.Task:
    task = _task(engine, request.name, now)
    engine.run_now(task, now)
    return task.to_message(request.response_view)


def _queue(engine: Engine, name: str) -> QueueState:
    queue = engine.queues.get(name)
    if queue is None:
        resource_names.check_queue(name)
        raise ApiError(
            StatusCode.NOT_FOUND,
            "Queue does not exist. If you just created the queue, wait at least a minute for the queue to initialize.",
        )
    return queue


def _new_queue(engine: Engine, requested: m.Queue, now: float) -> m.Queue:
    if engine.queue_names.is_reserved(requested.name, now):
        raise ApiError(
            StatusCode.FAILED_PRECONDITION,
            "The queue cannot be created because a queue with this name existed too recently.",
        )
    return engine.add_queue(queue_rules.new_queue(requested)).message


def _set_state(engine: Engine, name: str, state: int, now: float) -> m.Queue:
    queue = _queue(engine, name)
    message = deepcopy(queue.message)
    message.state = state
    return _configure(engine, queue, message, now)


def _configure(engine: Engine, queue: QueueState, message: m.Queue, now: float) -> m.Queue:
    engine.configure(queue, message, now)
    return message


def _task(engine: Engine, name: str, now: float) -> TaskState:
    queue_name, task_id = resource_names.split_task(name)
    queue = engine.queues.get(queue_name)
    task = queue.tasks.get(task_id) if queue else None
    if task is None:
        raise task_existed_recently() if queue and engine.task_existed_recently(queue, task_id, now) else not_found()
    return task


def _converted(queue: QueueState) -> m.BetaQueue:
    """The v2 message as one of v2beta3: one field has another name."""
    fields = MessageToDict(queue.message)
    if override := fields.pop("appEngineRoutingOverride", None):
        fields["appEngineHttpQueue"] = {"appEngineRoutingOverride": override}
    ttls = {"taskTtl": f"{RETENTION:.0f}s", "tombstoneTtl": f"{TASK_NAME_WINDOW:.0f}s"}
    return ParseDict({**fields, **ttls, "type": "PUSH"}, m.BetaQueue())


def _fill_statistics(queue: QueueState, stats: m.QueueStats, now: float) -> None:
    """Exact values of the documented estimates; the oldest time is the earliest schedule time of a waiting task."""
    stats.tasks_count = len(queue.tasks)
    stats.concurrent_dispatches_count = queue.in_flight
    stats.executed_last_minute_count = queue.responses.count(now)
    stats.effective_execution_rate = queue.rate.effective(now)
    oldest = queue.waiting.next_time()
    if oldest is not None:
        set_time(stats.oldest_estimated_arrival_time, oldest)


Item = TypeVar("Item")


def _page_of(items: Iterable[tuple[str, Item]], size: int, token: str, *, most: int) -> tuple[list[Item], str]:
    """The page of sorted (key, item) pairs that follows *token*, and the token of the next page."""
    if size < 0:
        raise invalid("The page size must be non-negative.")
    size = min(size or most, most)
    after = _last_key(token)
    found = list(islice((pair for pair in items if pair[0] > after), size + 1))
    page = found[:size]
    next_token = base64.urlsafe_b64encode(page[-1][0].encode()).decode() if len(found) > size else ""
    return [item for _, item in page], next_token


def _last_key(token: str) -> str:
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except ValueError:
        raise invalid("The page token is invalid.") from None


class Method(NamedTuple):
    request: type[m.Message]
    call: Callable[[Engine, Any, float], m.Message]


METHODS: Mapping[str, Method] = {
    "CreateQueue": Method(types.CreateQueueRequest.pb(), create_queue),
    "GetQueue": Method(types.GetQueueRequest.pb(), get_queue),
    "ListQueues": Method(types.ListQueuesRequest.pb(), list_queues),
    "UpdateQueue": Method(types.UpdateQueueRequest.pb(), update_queue),
    "DeleteQueue": Method(types.DeleteQueueRequest.pb(), delete_queue),
    "PurgeQueue": Method(types.PurgeQueueRequest.pb(), purge_queue),
    "PauseQueue": Method(types.PauseQueueRequest.pb(), pause_queue),
    "ResumeQueue": Method(types.ResumeQueueRequest.pb(), resume_queue),
    "CreateTask": Method(types.CreateTaskRequest.pb(), create_task),
    "GetTask": Method(types.GetTaskRequest.pb(), get_task),
    "ListTasks": Method(types.ListTasksRequest.pb(), list_tasks),
    "DeleteTask": Method(types.DeleteTaskRequest.pb(), delete_task),
    "RunTask": Method(types.RunTaskRequest.pb(), run_task),
    "v2beta3.GetQueue": Method(beta_types.GetQueueRequest.pb(), get_beta_queue),
}
