"""The emulator as one thread-safe object: one lock around the engine, and the store behind it."""

from __future__ import annotations

import random as randomness
import sqlite3
from threading import BoundedSemaphore, Condition, Lock
from typing import TYPE_CHECKING, Any

from grpc import StatusCode

from traced_relay.emulator import messages as m
from traced_relay.emulator.engine import Engine
from traced_relay.emulator.errors import ApiError, unimplemented
from traced_relay.emulator.methods import METHODS, MOST_TASKS
from traced_relay.runtime.clock import SystemClock, pause

if TYPE_CHECKING:
    from collections.abc import Callable

    from traced_relay.emulator.attempts import Dispatch, Outcome
    from traced_relay.emulator.store import Commit, Store
    from traced_relay.runtime.clock import Clock

# The timers of a suspended machine stop while its calendar goes on, so no wait is long.
LONGEST_WAIT = 30.0
# A client that lists tasks or purges in a loop must not slow down the others: a list is built in parts with a pause
# after each, a purge has one too, and both occupy at most half of the threads that serve gRPC.
LIST_PART = 50
PAUSE_PER_TASK = 5e-5
PAUSE_PER_PURGE = 0.02
PACED_AT_ONCE = 8
_PACED = ("ListTasks", "PurgeQueue")


class Service:
    """Serves METHODS. With a store, `call` responds (errors too) after the state it reports is on disk."""

    def __init__(
        self, clock: Clock, store: Store | None = None, random: Callable[[], float] = randomness.random
    ) -> None:
        self._clock = clock
        self._store = store
        self._engine = Engine(random)
        self._lock = Lock()
        self._paced = BoundedSemaphore(PACED_AT_ONCE)
        self._time_moved = Condition(self._lock)
        self._idle_check = Condition(self._lock)
        self._sink: Callable[[Dispatch], None] | None = None
        self._timer_wakes_at: float | None = None
        if store is not None:
            self._engine.restore(store.load(), clock.now())

    def call(self, method: str, request: m.Message) -> m.Message:
        """The response to *request*; raises ApiError."""
        if method not in _PACED:
            return self._call(method, request)
        if not self._paced.acquire(blocking=False):
            raise ApiError(StatusCode.UNAVAILABLE, f"{PACED_AT_ONCE} lists and purges are in progress; try again.")
        try:
            return self._list_tasks(request) if method == "ListTasks" else self._purge(request)
        finally:
            self._paced.release()

    def _purge(self, request: m.Message) -> m.Message:
        queue = self._call("PurgeQueue", request)
        timer = SystemClock()
        pause(timer, timer.monotonic() + PAUSE_PER_PURGE)
        return queue

    def _list_tasks(self, request: Any) -> m.Message:
        wanted = min(request.page_size or MOST_TASKS, MOST_TASKS)
        part: Any = METHODS["ListTasks"].request()
        part.CopyFrom(request)
        page = m.ListTasksResponse()
        timer = SystemClock()
        while True:
            part.page_size = min(wanted - len(page.tasks), LIST_PART)
            found: Any = self._call("ListTasks", part)
            pause(timer, timer.monotonic() + PAUSE_PER_TASK * len(found.tasks))
            page.MergeFrom(found)
            if not found.next_page_token:
                page.next_page_token = ""
            if not found.next_page_token or len(page.tasks) >= wanted:
                return page
            part.page_token = found.next_page_token

    def _call(self, method: str, request: m.Message) -> m.Message:
        response: m.Message | ApiError
        if method not in METHODS:
            raise unimplemented(method)
        with self._lock:
            now = self._clock.now()
            try:
                response = METHODS[method].call(self._engine, request, now)
            except ApiError as exc:
                response = exc
            commit = self._pass_on(now, is_awaited=True)
        if commit is not None:
            try:
                commit.result()
            except sqlite3.Error as exc:
                raise ApiError(StatusCode.UNAVAILABLE, f"The queue's data could not be written: {exc}.") from exc
        if isinstance(response, ApiError):
            raise response
        return response

    def finish(self, dispatch: Dispatch, outcome: Outcome) -> None:
        with self._lock:
            now = self._clock.now()
            self._engine.finish_attempt(dispatch, outcome, now)
            self._pass_on(now)

    def start_delivering(self, sink: Callable[[Dispatch], None]) -> None:
        """
        Pass every due dispatch to *sink*, until `stop_delivering`.

        Any thread calls *sink*, holding the lock, so it must return at once.
        """
        with self._lock:
            self._sink = sink
            self._pass_on(self._clock.now())

    def run_timer(self) -> None:
        """Deliver the dispatches that become due as time passes; returns after `stop_delivering`."""
        with self._lock:
            while self._sink is not None:
                now = self._clock.now()
                self._pass_on(now)
                wake = self._engine.next_wake_time()
                self._timer_wakes_at = wake
                self._clock.wait(self._time_moved, None if wake is None else min(max(wake - now, 0), LONGEST_WAIT))

    def stop_delivering(self) -> None:
        with self._lock:
            self._sink = None
            self._time_moved.notify_all()

    def wait_until_idle(self, seconds: float) -> bool:
        """Whether no task is in flight or due at some moment within *seconds* of real time."""
        with self._lock:
            return self._idle_check.wait_for(self._is_idle, seconds)

    def _is_idle(self) -> bool:
        now = self._clock.now()
        self._pass_on(now)
        return self._engine.is_idle(now)

    def _pass_on(self, now: float, *, is_awaited: bool = False) -> Commit | None:
        """Pass dispatches to the sink and changes to the store."""
        if self._sink is not None:
            for dispatch in self._engine.start_due(now):
                self._sink(dispatch)
            wake = self._engine.next_wake_time()
            if wake is not None and (self._timer_wakes_at is None or wake < self._timer_wakes_at):
                self._timer_wakes_at = wake
                self._time_moved.notify()
            self._idle_check.notify_all()
        changes = self._engine.pop_changes()
        return self._store.write(changes, is_awaited=is_awaited) if self._store is not None else None
