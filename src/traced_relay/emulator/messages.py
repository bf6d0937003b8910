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

    class Request(_Raw):
        """The request of any method; `METHODS` has the type of each."""

    class Queue(_Raw): ...

    class Task(_Raw): ...

    class RetryConfig(_Raw): ...

    class RateLimits(_Raw): ...

    class HttpRequest(_Raw): ...

    class AppEngineHttpRequest(_Raw): ...

    class AppEngineRouting(_Raw): ...

    class Attempt(_Raw): ...

    class ListQueuesResponse(_Raw): ...

    class ListTasksResponse(_Raw): ...

    class BetaQueue(_Raw): ...

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
    ListQueuesResponse = types.ListQueuesResponse.pb()
    ListTasksResponse = types.ListTasksResponse.pb()
    BetaQueue = beta_types.Queue.pb()
    QueueStats = beta_types.QueueStats.pb()

RUNNING, PAUSED = int(types.Queue.State.RUNNING), int(types.Queue.State.PAUSED)
BASIC, FULL = int(types.Task.View.BASIC), int(types.Task.View.FULL)
HTTP_METHODS = {int(method): name for name, method in types.HttpMethod.__members__.items()}
POST = int(types.HttpMethod.POST)
