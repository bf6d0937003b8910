"""The queue as one thread-safe object: one lock, the engine under it, the store behind it."""

from __future__ import annotations

import random as randomness
import sqlite3
from threading import Condition, Lock
from typing import TYPE_CHECKING, Any

from grpc import StatusCode

from traced_relay.emulator import messages as m
from traced_relay.emulator.engine import Engine
from traced_relay.emulator.errors import ApiError, unimplemented
from traced_relay.emulator.methods import (
    create_queue,
    create_task,
    delete_queue,
    delete_task,
    get_beta_queue,
    get_queue,
    get_task,
    list_queues,
    list_tasks,
    pause_queue,
    purge_queue,
    resume_queue,
    run_task,
    update_queue,
)
from traced_relay.runtime.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from traced_relay.emulator.attempts import Dispatch, Outcome
    from traced_relay.emulator.store import Commit, Store
    from traced_relay.runtime.clock import Clock

# A suspended machine's timers stand still while its calendar goes on, so nobody sleeps for long.
LONGEST_NAP = 30.0


class Service:
    """
    Serves the methods of Cloud Tasks v2, by name, and one of v2beta3 by its version too.

    Whatever `call` answers, refusals too, speaks only of what is on disk by then, if there is a store.
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
        "v2beta3.GetQueue": (m.GetBetaQueueRequest, m.BetaQueue),
    }

    def __init__(
        self, clock: Clock, store: Store | None = None, random: Callable[[], float] = randomness.random
    ) -> None:
        self._clock = clock
        self._store = store
        self._engine = Engine(random)
        self._lock = Lock()
        self._time_moved = Condition(self._lock)
        self._settled = Condition(self._lock)
        self._sink: Callable[[list[Dispatch]], None] | None = None
        self._napping_until: float | None = None
        if store is not None:
            self._engine.restore(store.load(), clock.now())

    def call(self, method: str, request: m.Message) -> m.Message:
        """Answer *request*, or raise ApiError."""
        answer: m.Message | ApiError
        call = _CALLS.get(method)
        if call is None:
            raise unimplemented(method)
        with self._lock:
            now = self._clock.now()
            try:
                answer = call(self._engine, request, now)
            except ApiError as exc:
                answer = exc
            commit = self._settle(now)
        if commit is not None:
            _wait(commit)
        if isinstance(answer, ApiError):
            raise answer
        return answer

    def finish(self, dispatch: Dispatch, answer: Outcome) -> None:
        """Say how a dispatch ended."""
        with self._lock:
            now = self._clock.now()
            self._engine.finished(dispatch, answer, now)
            self._settle(now)

    def start_delivering(self, sink: Callable[[list[Dispatch]], None]) -> None:
        """
        Give *sink* every dispatch as it falls due, until `stop_delivering`.

        It is called under the lock, by whichever thread made something due, so it must only pass on.
        """
        with self._lock:
            self._sink = sink
            self._settle(self._clock.now())

    def keep_time(self) -> None:
        """Deliver what falls due by the passing of time alone; returns once delivering has stopped."""
        with self._lock:
            while self._sink is not None:
                now = self._clock.now()
                self._settle(now)
                wake = self._engine.next_wake()
                self._napping_until = wake
                self._clock.wait(self._time_moved, None if wake is None else min(max(wake - now, 0), LONGEST_NAP))

    def stop_delivering(self) -> None:
        with self._lock:
            self._sink = None
            self._time_moved.notify_all()

    def wait_until_idle(self, seconds: float) -> bool:
        """Whether, within so many seconds of real time, nothing was in flight and nothing due."""
        timer = SystemClock()
        deadline = timer.monotonic() + seconds
        with self._lock:
            while True:
                now = self._clock.now()
                self._settle(now)
                if self._engine.is_idle(now):
                    return True
                left = deadline - timer.monotonic()
                if left <= 0:
                    return False
                timer.wait(self._settled, left)

    def _settle(self, now: float) -> Commit | None:
        """Pass on what the engine decided: changes to the store, dispatches to the sink."""
        if self._sink is not None:
            due = self._engine.due(now)
            if due:
                self._sink(due)
            wake = self._engine.next_wake()
            if wake is not None and (self._napping_until is None or wake < self._napping_until):
                self._napping_until = wake
                self._time_moved.notify()
            self._settled.notify_all()
        changes = self._engine.take_changes()
        return self._store.write(changes) if self._store is not None else None


def _wait(commit: Commit) -> None:
    try:
        commit.wait()
    except sqlite3.Error as exc:
        raise ApiError(StatusCode.UNAVAILABLE, f"The queue's data could not be written: {exc}.") from exc


_CALLS: dict[str, Callable[[Engine, Any, float], m.Message]] = {
    "CreateQueue": create_queue,
    "GetQueue": get_queue,
    "ListQueues": list_queues,
    "UpdateQueue": update_queue,
    "DeleteQueue": delete_queue,
    "PurgeQueue": purge_queue,
    "PauseQueue": pause_queue,
    "ResumeQueue": resume_queue,
    "CreateTask": create_task,
    "GetTask": get_task,
    "ListTasks": list_tasks,
    "DeleteTask": delete_task,
    "RunTask": run_task,
    "v2beta3.GetQueue": get_beta_queue,
}
