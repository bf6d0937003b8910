"""The methods of Cloud Tasks, each from its request to its answer. Pure, as the engine is."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.json_format import MessageToDict, ParseDict

from traced_relay.emulator import messages as m
from traced_relay.emulator import queue_rules, resource_names, task_rules
from traced_relay.emulator.backoff import RETENTION
from traced_relay.emulator.engine import TASK_NAME_WINDOW
from traced_relay.emulator.errors import (
    invalid,
    no_such_queue,
    no_such_queue_to_delete,
    no_such_task,
    queue_existed_recently,
    queue_exists,
    task_existed_recently,
    task_exists,
    unimplemented,
)
from traced_relay.emulator.task_rules import set_time

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.field_mask_pb2 import FieldMask

    from traced_relay.emulator.engine import Engine
    from traced_relay.emulator.state import QueueState, TaskState

MOST_QUEUES, MOST_TASKS = 9800, 1000


Item = TypeVar("Item")


def page_of(items: Iterable[tuple[str, Item]], size: int, token: str, *, most: int) -> tuple[list[Item], str]:
    """The page of *items* (in the order of their places) that *token* asks for, and the token of the next."""
    if size < 0:
        raise invalid("The page size must be non-negative.")
    size = min(size or most, most)
    after = _place(token)
    found: list[Item] = []
    last = ""
    for place, item in items:
        if place <= after:
            continue
        if len(found) == size:
            return found, base64.urlsafe_b64encode(last.encode()).decode()
        found.append(item)
        last = place
    return found, ""


def _place(token: str) -> str:
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise invalid("The page token is invalid.") from None


def create_queue(engine: Engine, request: m.CreateQueueRequest, now: float) -> m.Queue:
    resource_names.check_location(request.parent)
    resource_names.check_queue_in(request.queue.name, request.parent)
    if request.queue.name in engine.queues:
        raise queue_exists()
    return _make_queue(engine, request.queue, now)


def get_queue(engine: Engine, request: m.GetQueueRequest, now: float) -> m.Queue:  # noqa: ARG001
    return _queue(engine, request.name).message


def get_beta_queue(engine: Engine, request: m.GetBetaQueueRequest, now: float) -> m.BetaQueue:
    return shown(_queue(engine, request.name), request.read_mask, now)


def list_queues(engine: Engine, request: m.ListQueuesRequest, now: float) -> m.ListQueuesResponse:  # noqa: ARG001
    resource_names.check_location(request.parent)
    if request.filter:
        raise unimplemented("ListQueuesRequest.filter")
    below = request.parent + "/queues/"
    found = sorted((name, queue.message) for name, queue in engine.queues.items() if name.startswith(below))
    page, token = page_of(found, request.page_size, request.page_token, most=MOST_QUEUES)
    return m.ListQueuesResponse(queues=page, next_page_token=token)


def update_queue(engine: Engine, request: m.UpdateQueueRequest, now: float) -> m.Queue:
    """Change the queue, or make it where there is none."""
    resource_names.check_queue(request.queue.name)
    queue = engine.queues.get(request.queue.name)
    if queue is None:
        return _make_queue(engine, request.queue, now)
    message = queue_rules.updated_queue(queue.message, request.queue, request.update_mask.paths)
    return _configure(engine, queue, message, now)


def delete_queue(engine: Engine, request: m.DeleteQueueRequest, now: float) -> m.Empty:
    resource_names.check_queue(request.name)
    queue = engine.queues.get(request.name)
    if queue is None:
        raise no_such_queue_to_delete()
    engine.delete_queue(queue, now)
    return m.Empty()


def purge_queue(engine: Engine, request: m.PurgeQueueRequest, now: float) -> m.Queue:
    queue = _queue(engine, request.name)
    for task in tuple(queue.tasks.values()):
        engine.end(task, now)
    message = queue_rules.changed(queue.message)
    task_rules.set_time(message.purge_time, now)
    return _configure(engine, queue, message, now)


def pause_queue(engine: Engine, request: m.PauseQueueRequest, now: float) -> m.Queue:
    queue = _queue(engine, request.name)
    return _configure(engine, queue, queue_rules.changed(queue.message, state=m.PAUSED), now)


def resume_queue(engine: Engine, request: m.ResumeQueueRequest, now: float) -> m.Queue:
    queue = _queue(engine, request.name)
    return _configure(engine, queue, queue_rules.changed(queue.message, state=m.RUNNING), now)


def create_task(engine: Engine, request: m.CreateTaskRequest, now: float) -> m.Task:
    queue = _queue(engine, request.parent)
    is_named = bool(request.task.name)
    task_id = resource_names.check_task_in(request.task.name, queue.name) if is_named else engine.new_id(queue, now)
    message = task_rules.task_to_store(request.task, f"{queue.name}/tasks/{task_id}", now)
    if is_named and engine.is_taken(queue, task_id, now):
        raise task_exists()
    return engine.add_task(queue, message, now, is_named=is_named).shown(request.response_view)


def get_task(engine: Engine, request: m.GetTaskRequest, now: float) -> m.Task:
    return _task(engine, request.name, now).shown(request.response_view)


def list_tasks(engine: Engine, request: m.ListTasksRequest, now: float) -> m.ListTasksResponse:  # noqa: ARG001
    queue = _queue(engine, request.parent)
    found = ((f"{task.serial:019d}", task) for task in queue.tasks.values())
    page, token = page_of(found, request.page_size, request.page_token, most=MOST_TASKS)
    return m.ListTasksResponse(tasks=[task.shown(request.response_view) for task in page], next_page_token=token)


def delete_task(engine: Engine, request: m.DeleteTaskRequest, now: float) -> m.Empty:
    engine.end(_task(engine, request.name, now), now)
    return m.Empty()


def run_task(engine: Engine, request: m.RunTaskRequest, now: float) -> m.Task:
    task = _task(engine, request.name, now)
    engine.force(task, now)
    return task.shown(request.response_view)


def _queue(engine: Engine, name: str) -> QueueState:
    queue = engine.queues.get(name)
    if queue is None:
        resource_names.check_queue(name)
        raise no_such_queue()
    return queue


def _make_queue(engine: Engine, requested: m.Queue, now: float) -> m.Queue:
    if engine.queue_existed_recently(requested.name, now):
        raise queue_existed_recently()
    return engine.add_queue(queue_rules.new_queue(requested)).message


def _configure(engine: Engine, queue: QueueState, message: m.Queue, now: float) -> m.Queue:
    engine.configure(queue, message, now)
    return message


def _task(engine: Engine, name: str, now: float) -> TaskState:
    queue_name, task_id = resource_names.split_task(name)
    queue = engine.queues.get(queue_name)
    task = queue.tasks.get(task_id) if queue else None
    if task is None:
        raise task_existed_recently() if queue and engine.task_existed_recently(name, now) else no_such_task()
    return task


def shown(queue: QueueState, mask: FieldMask, now: float) -> m.BetaQueue:
    """The fields that the *mask* names; without one all but the statistics, which must be asked for."""
    fields: Any = m.BetaQueue.DESCRIPTOR
    if not mask.IsValidForDescriptor(fields):
        raise invalid("The read mask names a field that a queue does not have.")
    whole = _described(queue)
    if not mask.paths:
        return whole
    _count(queue, whole.stats, now)
    answer = m.BetaQueue()
    mask.MergeMessage(whole, answer)
    return answer


def _described(queue: QueueState) -> m.BetaQueue:
    """What v2 says, in the other message: the names are the same but for one."""
    fields = MessageToDict(queue.message)
    if override := fields.pop("appEngineRoutingOverride", None):
        fields["appEngineHttpQueue"] = {"appEngineRoutingOverride": override}
    ttls = {"taskTtl": f"{RETENTION:.0f}s", "tombstoneTtl": f"{TASK_NAME_WINDOW:.0f}s"}
    return ParseDict({**fields, **ttls, "type": "PUSH"}, m.BetaQueue())


def _count(queue: QueueState, stats: m.QueueStats, now: float) -> None:
    """The documented estimates, exactly; the oldest time is that of the task whose turn it is, or was to be, next."""
    stats.tasks_count = len(queue.tasks)
    stats.concurrent_dispatches_count = queue.in_flight
    stats.executed_last_minute_count = queue.answered.count(now)
    stats.effective_execution_rate = queue.rate.effective(now)
    oldest = queue.waiting.next_time()
    if oldest is not None:
        set_time(stats.oldest_estimated_arrival_time, oldest)
