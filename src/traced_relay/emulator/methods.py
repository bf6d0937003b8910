"""The methods of Cloud Tasks, each from its request to its answer. Pure, as the engine is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from traced_relay.emulator import messages as m
from traced_relay.emulator import paging, queue_rules, resource_names, statistics, task_rules
from traced_relay.emulator.errors import (
    no_such_queue,
    no_such_queue_to_delete,
    no_such_task,
    queue_existed_recently,
    queue_exists,
    task_existed_recently,
    task_exists,
    unimplemented,
)

if TYPE_CHECKING:
    from traced_relay.emulator.engine import Engine
    from traced_relay.emulator.state import QueueState
    from traced_relay.emulator.tasks import TaskState


def create_queue(engine: Engine, request: m.CreateQueueRequest, now: float) -> m.Queue:
    resource_names.check_location(request.parent)
    resource_names.check_queue_in(request.queue.name, request.parent)
    if request.queue.name in engine.queues:
        raise queue_exists()
    return _make_queue(engine, request.queue, now)


def get_queue(engine: Engine, request: m.GetQueueRequest, now: float) -> m.Queue:  # noqa: ARG001
    return _queue(engine, request.name).message


def get_beta_queue(engine: Engine, request: m.GetBetaQueueRequest, now: float) -> m.BetaQueue:
    return statistics.shown(_queue(engine, request.name), request.read_mask, now)


def list_queues(engine: Engine, request: m.ListQueuesRequest, now: float) -> m.ListQueuesResponse:  # noqa: ARG001
    resource_names.check_location(request.parent)
    if request.filter:
        raise unimplemented("ListQueuesRequest.filter")
    below = request.parent + "/queues/"
    found = sorted((name, queue.message) for name, queue in engine.queues.items() if name.startswith(below))
    page, token = paging.page(found, request.page_size, request.page_token, most=paging.MOST_QUEUES)
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
    page, token = paging.page(found, request.page_size, request.page_token, most=paging.MOST_TASKS)
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
