"""Resource names of Cloud Tasks, and production's errors for invalid ones."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from google.rpc.error_details_pb2 import Help

from traced_relay.emulator.errors import invalid

if TYPE_CHECKING:
    from traced_relay.emulator.messages import AppEngineRouting

_LOCATION = re.compile(r"projects/([A-Za-z0-9:.-]+)/locations/([A-Za-z0-9-]+)")
_QUEUE = re.compile(_LOCATION.pattern + r"/queues/([A-Za-z0-9-]{1,100})")
_TASK_ID = re.compile(r"[A-Za-z0-9_-]{1,500}")

_REFERENCE = "https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues"
_QUEUE_NAME = Help.Link(description="Definition of queue name", url=f"{_REFERENCE}#Queue.FIELDS.name")
_TASK_NAME = Help.Link(description="Definition of task ID", url=f"{_REFERENCE}.tasks#Task.FIELDS.name")


def check_location(name: str) -> None:
    if not _LOCATION.fullmatch(name):
        raise invalid("Invalid resource field value in the request.")


def check_queue(name: str) -> None:
    if not _QUEUE.fullmatch(name):
        raise invalid(
            'Queue name must be formatted: "projects/<PROJECT_ID>/locations/<LOCATION_ID>/queues/<QUEUE_ID>".',
            help_links=(_QUEUE_NAME,),
        )


def check_queue_in(name: str, location: str) -> None:
    """Refuse a queue name outside the request's *location*."""
    check_queue(name)
    if name.rpartition("/queues/")[0] != location:
        raise invalid(f"{name} must begin with {location}.")


def split_task(name: str) -> tuple[str, str]:
    """The queue's name and the task's id; the queue need not exist."""
    queue, found, task_id = name.partition("/tasks/")
    if not found or not _QUEUE.fullmatch(queue):
        raise invalid(
            "Task name must be formatted: "
            '"projects/<PROJECT_ID>/locations/<LOCATION_ID>/queues/<QUEUE_ID>/tasks/<TASK_ID>"'
        )
    if not _TASK_ID.fullmatch(task_id):
        raise invalid(
            f'Task ID "{task_id}" can contain only letters ([A-Za-z]), numbers ([0-9]), hyphens (-), '
            "or underscores (_). Task ID must between 1 and 500 characters.",
            help_links=(_TASK_NAME,),
        )
    return queue, task_id


def check_task_in(name: str, queue: str) -> str:
    """The task id in *name*, which must belong to *queue*."""
    named_queue, task_id = split_task(name)
    if named_queue != queue:
        raise invalid(
            f"The queue name from request ('{queue}') must be the same as "
            f"the queue name in the named task ('{named_queue}')."
        )
    return task_id


def short(name: str) -> str:
    """The last part of a name: the id."""
    return name.rpartition("/")[2]


def app_engine_host(routing: AppEngineRouting, name: str) -> str:
    """The host on App Engine, for display only; delivery uses a configured address."""
    project = name.split("/", 2)[1]
    parts = (routing.instance, routing.version, routing.service, f"{project}.appspot.com")
    return ".".join(part for part in parts if part)
