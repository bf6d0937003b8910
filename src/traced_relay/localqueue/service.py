"""The queue as one thread-safe object: one lock, the engine under it, the store behind it."""

from __future__ import annotations

import random as randomness
from typing import TYPE_CHECKING

from traced_relay.localqueue import messages as m
from traced_relay.localqueue.errors import unimplemented

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from traced_relay.clock import Clock
    from traced_relay.localqueue.store import Store


class Service:
    """
    Serves the methods of Cloud Tasks v2, by name.

    What `call` acknowledges is on disk when it returns, if there is a store.
    """

    methods: Mapping[str, tuple[type[m.Message], type[m.Message]]] = {
        "CreateQueue": (m.CreateQueueRequest, m.Queue),
        "GetQueue": (m.GetQueueRequest, m.Queue),
        "ListQueues": (m.ListQueuesRequest, m.ListQueuesResponse),
        "UpdateQueue": (m.UpdateQueueRequest, m.Queue),
        "DeleteQueue": (m.DeleteQueueRequest, m.Empty),
        "PurgeQueue": (m.PurgeQueueRequest, m.Queue),
        "PauseQueue": (m.PauseQueueRequest, m.Queue),
        "ResumeQueue": (m.ResumeQueueRequest, m.Queue),
        "CreateTask": (m.CreateTaskRequest, m.Task),
        "GetTask": (m.GetTaskRequest, m.Task),
        "ListTasks": (m.ListTasksRequest, m.ListTasksResponse),
        "DeleteTask": (m.DeleteTaskRequest, m.Empty),
        "RunTask": (m.RunTaskRequest, m.Task),
    }

    def __init__(
        self, clock: Clock, store: Store | None = None, random: Callable[[], float] = randomness.random
    ) -> None:
        self._clock = clock
        self._store = store
        self._random = random

    def call(self, method: str, request: m.Message) -> m.Message:
        """Answer *request*, or raise ApiError."""
        raise unimplemented(method)
