"""
Google's raw protobuf messages of Cloud Tasks v2, and those of v2beta3 that v2 lacks.

Raw, because the wrappers of Google's library cost more than all other work of the queue on a task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.cloud.tasks_v2 import types
from google.cloud.tasks_v2beta3 import types as beta_types
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

__all__ = ["Duration", "Empty", "Message", "Timestamp"]

if TYPE_CHECKING:

    class _Raw(Message):
        def __init__(self, **fields: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    class Queue(_Raw): ...

    class Task(_Raw): ...

    class RetryConfig(_Raw): ...

    class RateLimits(_Raw): ...

    class HttpRequest(_Raw): ...

    class AppEngineHttpRequest(_Raw): ...

    class AppEngineRouting(_Raw): ...

    class Attempt(_Raw): ...

    class CreateQueueRequest(_Raw): ...

    class GetQueueRequest(_Raw): ...

    class ListQueuesRequest(_Raw): ...

    class ListQueuesResponse(_Raw): ...

    class UpdateQueueRequest(_Raw): ...

    class DeleteQueueRequest(_Raw): ...

    class PurgeQueueRequest(_Raw): ...

    class PauseQueueRequest(_Raw): ...

    class ResumeQueueRequest(_Raw): ...

    class CreateTaskRequest(_Raw): ...

    class GetTaskRequest(_Raw): ...

    class ListTasksRequest(_Raw): ...

    class ListTasksResponse(_Raw): ...

    class DeleteTaskRequest(_Raw): ...

    class RunTaskRequest(_Raw): ...

    class BetaQueue(_Raw): ...

    class GetBetaQueueRequest(_Raw): ...

    class QueueStats(_Raw): ...

else:
    Queue = types.Queue.pb()
    Task = types.Task.pb()
    RetryConfig = types.RetryConfig.pb()
    RateLimits = types.RateLimits.pb()
    HttpRequest = types.HttpRequest.pb()
    AppEngineHttpRequest = types.AppEngineHttpRequest.pb()
    Attempt = types.Attempt.pb()
    AppEngineRouting = types.AppEngineRouting.pb()
    CreateQueueRequest = types.CreateQueueRequest.pb()
    GetQueueRequest = types.GetQueueRequest.pb()
    ListQueuesRequest = types.ListQueuesRequest.pb()
    ListQueuesResponse = types.ListQueuesResponse.pb()
    UpdateQueueRequest = types.UpdateQueueRequest.pb()
    DeleteQueueRequest = types.DeleteQueueRequest.pb()
    PurgeQueueRequest = types.PurgeQueueRequest.pb()
    PauseQueueRequest = types.PauseQueueRequest.pb()
    ResumeQueueRequest = types.ResumeQueueRequest.pb()
    CreateTaskRequest = types.CreateTaskRequest.pb()
    GetTaskRequest = types.GetTaskRequest.pb()
    ListTasksRequest = types.ListTasksRequest.pb()
    ListTasksResponse = types.ListTasksResponse.pb()
    DeleteTaskRequest = types.DeleteTaskRequest.pb()
    RunTaskRequest = types.RunTaskRequest.pb()
    BetaQueue = beta_types.Queue.pb()
    GetBetaQueueRequest = beta_types.GetQueueRequest.pb()
    QueueStats = beta_types.QueueStats.pb()

RUNNING, PAUSED = int(types.Queue.State.RUNNING), int(types.Queue.State.PAUSED)
BASIC, FULL = int(types.Task.View.BASIC), int(types.Task.View.FULL)
HTTP_METHODS = {int(method): name for name, method in types.HttpMethod.__members__.items()}
POST = int(types.HttpMethod.POST)
