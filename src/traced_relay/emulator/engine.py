"""
The queues and their tasks: what is due, and what becomes of each attempt.

Pure: every function takes `now`; no lock, socket, clock or log. What has to be sent is given back
as dispatches, what has to be kept as changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from traced_relay.emulator import attempts, changes, resource_names
from traced_relay.emulator import messages as m
from traced_relay.emulator.attempts import Dispatch, End, Outcome
from traced_relay.emulator.backoff import RETENTION, retry_after
from traced_relay.emulator.state import Progress, QueueState, TaskState
from traced_relay.emulator.tombstones import Tombstones
from traced_relay.runtime.timer_queue import TimerQueue

if TYPE_CHECKING:
    from collections.abc import Callable

QUEUE_NAME_WINDOW = 7 * 86400.0
TASK_NAME_WINDOW = 3600.0  # production: up to 24 hours
SWEEP_EVERY = 60.0

_SLOWING = {attempts.HTTP: (429, 503), attempts.APP_ENGINE: (503,)}


class Engine:
    """*queues* is for looking; only the verbs here change anything."""

    def __init__(self, random: Callable[[], float]) -> None:
        self.queues: dict[str, QueueState] = {}
        self._random = random
        self._wakes: TimerQueue[QueueState] = TimerQueue()
        self._running: dict[int, TaskState] = {}
        self._forced: list[Dispatch] = []
        self._changes: list[changes.Change] = []
        self._task_names = Tombstones(TASK_NAME_WINDOW)
        self._queue_names = Tombstones(QUEUE_NAME_WINDOW)
        self._swept_at = 0.0
        self._last_serial = self._last_token = self._last_id = 0

    def restore(self, kept: changes.Kept, now: float) -> None:
        """Start from what was kept; a task that was in flight waits again, that attempt being uncounted."""
        for queue in map(QueueState, kept.queues):
            self.queues[queue.name] = queue
        for name, until in kept.queue_names:
            self._queue_names.restore(name, until)
        for name, until in kept.task_names:
            self._task_names.restore(name, until)
        for serial, message, is_named, progress in kept.tasks:
            queue = self.queues[message.name.partition("/tasks/")[0]]
            state = Progress(*progress) if progress else Progress(seconds_of(message.schedule_time))
            self._admit(TaskState(queue, serial, message, is_named, state))
            self._last_serial = serial
        for queue in self.queues.values():
            self._plan(queue, now)

    # Queues

    def add_queue(self, message: m.Queue) -> QueueState:
        queue = self.queues[message.name] = QueueState(message)
        self._changes.append(changes.PutQueue(message))
        return queue

    def configure(self, queue: QueueState, message: m.Queue, now: float) -> None:
        queue.configure(message)
        self._changes.append(changes.PutQueue(message))
        self._plan(queue, now)

    def delete_queue(self, queue: QueueState, now: float) -> None:
        for task in tuple(queue.tasks.values()):
            self._remove(task)
        del self.queues[queue.name]
        self._wakes.discard(queue)
        self._changes.append(changes.DropQueue(queue.name, self._queue_names.bury(queue.name, now)))

    def queue_existed_recently(self, name: str, now: float) -> bool:
        return self._queue_names.holds(name, now)

    # Tasks

    def add_task(self, queue: QueueState, message: m.Task, now: float, *, is_named: bool) -> TaskState:
        """Let a task in; *is_named* says that its name was chosen by whoever made it."""
        self._last_serial += 1
        due_at = seconds_of(message.schedule_time)
        # A stamp of this very moment is rounded to a microsecond that may not have come yet.
        progress = Progress(now if due_at < now + 1e-6 else due_at)
        task = TaskState(queue, self._last_serial, message, is_named, progress)
        self._admit(task)
        self._changes.append(changes.PutTask(task.serial, message, is_named))
        self._plan(queue, now)
        return task

    def new_id(self, queue: QueueState, now: float) -> str:
        """Digits, as production makes them: the microsecond of the making, never twice, and three at random."""
        while True:
            self._last_id = max(self._last_id + 1, int(now * 1e6))
            task_id = f"{self._last_id:016d}{int(self._random() * 1000):03d}"
            if task_id not in queue.tasks:
                return task_id

    def is_taken(self, queue: QueueState, task_id: str, now: float) -> bool:
        return task_id in queue.tasks or self._task_names.holds(f"{queue.name}/tasks/{task_id}", now)

    def task_existed_recently(self, name: str, now: float) -> bool:
        """
        Whether the name of a task that is not there was in use a short while ago.

        An id that was made here tells by itself when that was, so nothing is kept for it.
        """
        if self._task_names.holds(name, now):
            return True
        task_id = resource_names.short(name)
        if len(task_id) != _ID_DIGITS or not task_id.isdigit():
            return False
        made_at = int(task_id[:-3]) / 1e6
        return now - RETENTION <= made_at <= max(now, self._last_id / 1e6)

    def force(self, task: TaskState, now: float) -> None:
        """Dispatch the task with the next `due`, whatever the queue's state and limits, and however often it runs."""
        task.queue.waiting.discard(task)
        self._forced.append(self._start(task, now, run_at=now))

    def end(self, task: TaskState, now: float) -> None:
        """Take the task out for good; its name stays taken for a while if somebody chose it."""
        self._remove(task)
        if task.is_named:
            until = self._task_names.bury(task.message.name, now)
            self._changes.append(changes.BuryName(task.message.name, until))
        self._sweep(now)

    # Dispatching

    def due(self, now: float) -> list[Dispatch]:
        """Start all attempts that may start now."""
        started, self._forced = self._forced, []
        while (queue := self._wakes.pop_due(now)) is not None:
            while (task := queue.take(now)) is not None:
                if now < self._retention_ends(task):
                    started.append(self._start(task, now))
                else:
                    self.end(task, now)
            self._plan(queue, now)
        return started

    def next_wake(self) -> float | None:
        """When `due` may have something again, if nothing else happens before."""
        return self._wakes.next_time()

    def finished(self, dispatch: Dispatch, answer: Outcome, now: float) -> None:
        """An attempt has ended: the task is done, waits for its next attempt, or is given up."""
        task = self._running.pop(dispatch.token)
        task.running -= 1
        task.queue.in_flight -= 1
        if not task.is_gone:
            self._judge(task, dispatch, answer, now)
        if answer.end is End.ANSWERED:
            task.queue.answered.add(now)
            if answer.status in _SLOWING[task.family]:
                task.queue.rate.slow_down(now)
        self._plan(task.queue, now)

    def is_idle(self, now: float) -> bool:
        """Whether nothing is in flight and nothing that may leave is due."""
        return not self._running and not any(queue.has_due(now) for queue in self.queues.values())

    def take_changes(self) -> list[changes.Change]:
        taken, self._changes = self._changes, []
        return taken

    def _judge(self, task: TaskState, dispatch: Dispatch, answer: Outcome, now: float) -> None:
        if answer.succeeded:
            self.end(task, now)
            return
        task.failed(answer, now)
        progress, policy = task.progress, task.queue.policy_for(task)
        if task.running:
            return  # a copy is still in flight, and the last to end decides
        first = progress.first_dispatched_at
        if policy.is_exhausted(progress.retry_count, now - (now if first is None else first)):
            self.end(task, now)
            return
        failed_at = now if dispatch.run_at is None else dispatch.run_at
        asked = retry_after(answer.retry_after, now) if task.family is attempts.HTTP else 0.0
        progress.due_at = max(failed_at + policy.delay(progress.retry_count), now + asked)
        task.queue.waiting.put(task, progress.due_at)
        self._changes.append(changes.KeepProgress(task.serial, progress.snapshot()))

    def _start(self, task: TaskState, now: float, *, run_at: float | None = None) -> Dispatch:
        self._last_token += 1
        self._running[self._last_token] = task
        task.queue.in_flight += 1
        return task.dispatch(self._last_token, now, run_at=run_at)

    def _plan(self, queue: QueueState, now: float) -> None:
        """Note when the queue is to be looked at next."""
        wake = queue.wakes_at(now) if self.queues.get(queue.name) is queue else None
        if wake is None:
            self._wakes.discard(queue)
        else:
            self._wakes.put(queue, wake)

    def _admit(self, task: TaskState) -> None:
        task.queue.tasks[task.task_id] = task
        task.queue.waiting.put(task, task.progress.due_at)

    def _remove(self, task: TaskState) -> None:
        self._changes.append(changes.DropTask(task.serial))
        task.is_gone = True
        del task.queue.tasks[task.task_id]
        task.queue.waiting.discard(task)

    def _retention_ends(self, task: TaskState) -> float:
        return seconds_of(task.message.create_time) + RETENTION

    def _sweep(self, now: float) -> None:
        if now < self._swept_at + SWEEP_EVERY:
            return
        self._swept_at = now
        self._task_names.sweep(now)
        self._queue_names.sweep(now)
        self._changes.append(changes.FreeNames(now))


_ID_DIGITS = 19


def seconds_of(stamp: m.Timestamp) -> float:
    return stamp.seconds + stamp.nanos // 1000 / 1e6
