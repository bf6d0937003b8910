"""
The queues and their tasks: which attempts start, and what follows when one ends.

Pure: every function takes `now`; no lock, socket, clock or log. It returns the dispatches to send,
and collects the changes to store.
"""

from __future__ import annotations

from collections import deque
from dataclasses import astuple
from math import inf
from typing import TYPE_CHECKING

from traced_relay.emulator import attempts, changes
from traced_relay.emulator import messages as m
from traced_relay.emulator.attempts import Dispatch, End, Outcome
from traced_relay.emulator.backoff import RETENTION, delay, is_exhausted, retry_after, seconds
from traced_relay.emulator.state import Progress, Purge, QueueState, TaskState
from traced_relay.emulator.task_table import TaskTable
from traced_relay.emulator.tombstones import Tombstones
from traced_relay.runtime.timer_queue import TimerQueue

if TYPE_CHECKING:
    from collections.abc import Callable

QUEUE_NAME_WINDOW = 7 * 86400.0
TASK_NAME_WINDOW = 3600.0  # production: up to 24 hours
EXPIRE_EVERY = 60.0
# Removing purged tasks takes a few per cent of one core, so that the other calls keep their rate.
PURGE_STEP, PURGE_EVERY = 100, 0.02
_ID_DIGITS = 19

_OVERLOAD_STATUSES = {attempts.HTTP: (429, 503), attempts.APP_ENGINE: (503,)}


class Engine:
    """Only these methods change *queues* and *queue_names*, the names of deleted queues; others read them."""

    def __init__(self, random: Callable[[], float]) -> None:
        self.queues: dict[str, QueueState] = {}
        self._random = random
        self._wakes: TimerQueue[QueueState] = TimerQueue()
        self._running: dict[Dispatch, TaskState] = {}
        self._forced: list[Dispatch] = []
        self._changes: list[changes.Change] = []
        self._purges: deque[Purge] = deque()
        self._purges_at = 0.0
        self._task_names = Tombstones(TASK_NAME_WINDOW)
        self.queue_names = Tombstones(QUEUE_NAME_WINDOW)
        self._expired_at = 0.0
        self._last_serial = self._last_id = 0

    def restore(self, stored: changes.StoredState, now: float) -> None:
        """Start from stored state; a task that was in flight waits again, and that attempt is not counted."""
        for queue in map(QueueState, stored.queues):
            self.queues[queue.name] = queue
        for name, until in stored.queue_names:
            self.queue_names.restore(name, until)
        for name, until in stored.task_names:
            self._task_names.restore(name, until)
        for name, serial, ends_at in stored.purges:
            queue = self.queues.get(name) or QueueState(m.Queue(name=name))
            self._purges.append(Purge(queue, serial, ends_at, TaskTable(), TimerQueue()))
            self._last_serial = serial
        purges = {purge.queue.name: purge for purge in self._purges}
        for serial, message, is_named, progress in stored.tasks:
            name = message.name.partition("/tasks/")[0]
            purge = purges.get(name)
            state = Progress(*progress) if progress else Progress(seconds(message.schedule_time))
            if purge is not None and serial <= purge.serial:
                purge.tasks.add(TaskState(purge.queue, serial, message, is_named, state))
            else:
                self._insert(TaskState(self.queues[name], serial, message, is_named, state))
            self._last_serial = max(self._last_serial, serial)
        for queue in self.queues.values():
            self._schedule_wake(queue, now)

    # Queues

    def add_queue(self, message: m.Queue) -> QueueState:
        queue = self.queues[message.name] = QueueState(message)
        self._changes.append(changes.PutQueue(message))
        return queue

    def configure(self, queue: QueueState, message: m.Queue, now: float) -> None:
        queue.configure(message)
        self._changes.append(changes.PutQueue(message))
        self._schedule_wake(queue, now)

    def delete_queue(self, queue: QueueState, now: float) -> None:
        self._purge(queue, None)
        del self.queues[queue.name]
        self._wakes.discard(queue)
        self._changes.append(changes.DropQueue(queue.name, self.queue_names.add(queue.name, now)))

    def purge(self, queue: QueueState, now: float) -> None:
        """Remove all tasks; names that callers chose stay reserved for a while."""
        self._purge(queue, now + TASK_NAME_WINDOW)

    # Tasks

    def add_task(self, queue: QueueState, message: m.Task, now: float, *, is_named: bool) -> TaskState:
        """Add a task; *is_named* means that the caller chose its name."""
        self._last_serial += 1
        due_at = seconds(message.schedule_time)
        # Rounding to a microsecond can move the present into the future.
        progress = Progress(now if due_at < now + 1e-6 else due_at)
        task = TaskState(queue, self._last_serial, message, is_named, progress)
        self._insert(task)
        self._changes.append(changes.PutTask(task.serial, message, is_named))
        self._schedule_wake(queue, now)
        return task

    def new_id(self, queue: QueueState, now: float) -> str:
        """Digits, as in production: the microsecond of creation, unique, and three random ones."""
        while True:
            self._last_id = max(self._last_id + 1, int(now * 1e6))
            task_id = f"{self._last_id:016d}{int(self._random() * 1000):03d}"
            if task_id not in queue.tasks:
                return task_id

    def is_taken(self, queue: QueueState, task_id: str, now: float) -> bool:
        return task_id in queue.tasks or self._is_reserved(queue, task_id, now)

    def task_existed_recently(self, queue: QueueState, task_id: str, now: float) -> bool:
        """
        Whether a task with this id existed recently.

        A generated id contains its time of creation, so no tombstone is kept for it.
        """
        if self._is_reserved(queue, task_id, now):
            return True
        if len(task_id) != _ID_DIGITS or not task_id.isdigit():
            return False
        made_at = int(task_id[:-3]) / 1e6
        return now - RETENTION <= made_at <= max(now, self._last_id / 1e6)

    def run_now(self, task: TaskState, now: float) -> None:
        """Dispatch the task with the next `start_due`, regardless of the queue's state and limits."""
        task.queue.waiting.discard(task)
        self._forced.append(self._start(task, now, run_at=now))

    def delete_task(self, task: TaskState, now: float) -> None:
        """Remove the task; a name that the caller chose stays reserved for a while."""
        self._remove(task)
        if task.is_named:
            until = self._task_names.add(task.message.name, now)
            self._changes.append(changes.AddTombstone(task.message.name, until))
        self._expire_tombstones(now)

    # Dispatching

    def start_due(self, now: float) -> list[Dispatch]:
        """Start every attempt that may start now."""
        started, self._forced = self._forced, []
        if self._purges and now >= self._purges_at:
            self._remove_purged(now)
        while (queue := self._wakes.pop_due(now)) is not None:
            while (task := queue.pop_due(now)) is not None:
                if now < seconds(task.message.create_time) + RETENTION:
                    started.append(self._start(task, now))
                else:
                    self.delete_task(task, now)
            self._schedule_wake(queue, now)
        return started

    def next_wake_time(self) -> float | None:
        """When to call `start_due` again, unless something else happens before."""
        wake = self._wakes.next_time()
        if not self._purges:
            return wake
        return self._purges_at if wake is None else min(wake, self._purges_at)

    def finish_attempt(self, dispatch: Dispatch, outcome: Outcome, now: float) -> None:
        """End an attempt: the task is deleted, or waits for its next attempt."""
        task = self._running.pop(dispatch)
        task.running -= 1
        task.queue.in_flight -= 1
        if not task.is_gone:
            self._settle(task, dispatch, outcome, now)
        if outcome.end is End.RESPONDED:
            task.queue.responses.add(now)
            if outcome.status in _OVERLOAD_STATUSES[task.family]:
                task.queue.rate.slow_down(now)
        self._schedule_wake(task.queue, now)

    def is_idle(self, now: float) -> bool:
        """Whether no attempt is in flight and no task that may be dispatched is due."""
        return not self._running and not any(queue.has_due(now) for queue in self.queues.values())

    def pop_changes(self) -> list[changes.Change]:
        taken, self._changes = self._changes, []
        return taken

    def _settle(self, task: TaskState, dispatch: Dispatch, outcome: Outcome, now: float) -> None:
        if outcome.is_success:
            self.delete_task(task, now)
            return
        task.count_failure(outcome, now)
        if task.running:
            return  # another attempt is in flight, and the last to end decides
        progress, config = task.progress, task.queue.retry_config_for(task)
        since_first = 0.0 if progress.first_dispatched_at is None else now - progress.first_dispatched_at
        if is_exhausted(config, progress.retry_count, since_first):
            self.delete_task(task, now)
            return
        failed_at = now if dispatch.run_at is None else dispatch.run_at
        wait = retry_after(outcome.retry_after, now) if task.family is attempts.HTTP else 0.0
        progress.due_at = max(failed_at + delay(config, progress.retry_count), now + wait)
        task.queue.waiting.put(task, progress.due_at)
        self._changes.append(changes.SaveProgress(task.serial, astuple(progress)))

    def _start(self, task: TaskState, now: float, *, run_at: float | None = None) -> Dispatch:
        task.queue.in_flight += 1
        dispatch = task.dispatch(now, run_at=run_at)
        self._running[dispatch] = task
        return dispatch

    def _schedule_wake(self, queue: QueueState, now: float) -> None:
        wake = queue.next_wake_time(now) if self.queues.get(queue.name) is queue else None
        if wake is None:
            self._wakes.discard(queue)
        else:
            self._wakes.put(queue, wake)

    def _insert(self, task: TaskState) -> None:
        task.queue.tasks.add(task)
        task.queue.waiting.put(task, task.progress.due_at)

    def _remove(self, task: TaskState) -> None:
        self._changes.append(changes.DropTask(task.serial))
        task.queue.tasks.remove(task)
        task.queue.waiting.discard(task)

    def _is_reserved(self, queue: QueueState, task_id: str, now: float) -> bool:
        if self._task_names.is_reserved(f"{queue.name}/tasks/{task_id}", now):
            return True
        return any(purge.reserves(queue, task_id, now) for purge in self._purges)

    def _purge(self, queue: QueueState, until: float | None) -> None:
        """Empty the queue at once, and remove a step's tasks; `start_due` removes the rest."""
        purge = Purge(queue, self._last_serial, until, queue.tasks, queue.waiting)
        queue.empty()
        self._remove_step(purge)
        if purge.tasks:
            self._purges.append(purge)
            self._changes.append(changes.PutPurge(queue.name, purge.serial, until))

    def _remove_purged(self, now: float) -> None:
        self._purges_at = now + PURGE_EVERY
        purge = self._purges[0]
        self._remove_step(purge)
        if not purge.tasks:
            self._purges.popleft()
            self._changes.append(changes.DropPurge(purge.queue.name, purge.serial))

    def _remove_step(self, purge: Purge) -> None:
        for _ in range(min(PURGE_STEP, len(purge.tasks))):
            purge.waiting.pop_due(inf)
            task = purge.tasks.pop()
            self._changes.append(changes.DropTask(task.serial))
            if task.is_named and purge.until is not None:
                name = task.message.name
                self._changes.append(changes.AddTombstone(name, self._task_names.restore(name, purge.until)))

    def _expire_tombstones(self, now: float) -> None:
        if now < self._expired_at + EXPIRE_EVERY:
            return
        self._expired_at = now
        self._task_names.expire(now)
        self.queue_names.expire(now)
        self._changes.append(changes.ExpireTombstones(now))
