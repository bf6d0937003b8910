"""An engine to talk to in a test's own words, at a time that only the test moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from traced_relay.emulator import messages as m
from traced_relay.emulator.attempts import Dispatch, End, Outcome
from traced_relay.emulator.engine import Engine
from traced_relay.emulator.methods import METHODS

if TYPE_CHECKING:
    from traced_relay.emulator.changes import Change
    from traced_relay.emulator.errors import ApiError

START = 1_790_000_000.0
LOCATION = "projects/p/locations/l"
QUEUE = f"{LOCATION}/queues/q"
HTTP = {"url": "http://worker/do"}
APP_ENGINE = {"relative_uri": "/do"}

DEADLINE = Outcome(End.DEADLINE)
UNREACHABLE = Outcome(End.UNREACHABLE)


def answered(status: int, retry_after: str | None = None) -> Outcome:
    return Outcome(End.RESPONDED, status, retry_after)


def duration(seconds: float) -> m.Duration:
    whole = m.Duration()
    whole.FromMicroseconds(round(seconds * 1e6))
    return whole


def retries(attempts: int, longest: float, least: float, most: float, doublings: int) -> dict[str, Any]:
    return {
        "max_attempts": attempts,
        "max_retry_duration": duration(longest),
        "min_backoff": duration(least),
        "max_backoff": duration(most),
        "max_doublings": doublings,
    }


def id_of(dispatch: Dispatch) -> str:
    return str(dispatch.task.name).rpartition("/")[2]


def refusal(error: ApiError) -> tuple[str, str]:
    return error.code.name, error.message


class Rig:
    def __init__(self, engine: Engine | None = None, *, now: float = START) -> None:
        self.engine = engine or Engine(random=lambda: 0.5)
        self.now = now
        self.changes: list[Change] = []

    def make_queue(self, name: str = QUEUE, **fields: Any) -> m.Queue:
        """A queue whose fields are exactly these, zeros too."""
        location = name.rpartition("/queues/")[0]
        made = self.call("CreateQueue", parent=location, queue=m.Queue(name=name, **fields))
        if fields.get("retry_config", {}).get("max_doublings") == 0:
            wanted = m.Queue(name=name, **fields)
            mask = {"paths": ["retry_config.max_doublings"]}
            return self.call("UpdateQueue", queue=wanted, update_mask=mask)
        return made

    def create(self, task_id: str = "", queue: str = QUEUE, *, delay: float = 0, **fields: Any) -> m.Task:
        task = m.Task(**fields or {"http_request": HTTP})
        if task_id:
            task.name = f"{queue}/tasks/{task_id}"
        if delay:
            task.schedule_time.FromMicroseconds(round((self.now + delay) * 1e6))
        return self.call("CreateTask", parent=queue, task=task)

    def get(self, task_id: str, view: int = m.BASIC) -> m.Task:
        return self.call("GetTask", name=f"{QUEUE}/tasks/{task_id}", response_view=view)

    def run(self, task_id: str) -> m.Task:
        return self.call("RunTask", name=f"{QUEUE}/tasks/{task_id}")

    def delete(self, task_id: str) -> None:
        self.call("DeleteTask", name=f"{QUEUE}/tasks/{task_id}")

    def listed(self, queue: str = QUEUE) -> list[str]:
        page = self.call("ListTasks", parent=queue)
        return [task.name.rpartition("/")[2] for task in page.tasks]

    def call(self, method: str, /, **fields: Any) -> Any:
        called = METHODS[method]
        answer = called.call(self.engine, called.request(**fields), self.now)
        self.changes += self.engine.pop_changes()
        return answer

    def pass_time(self, seconds: float) -> list[Dispatch]:
        self.now += seconds
        return self.due()

    def due(self) -> list[Dispatch]:
        started = self.engine.start_due(self.now)
        self.changes += self.engine.pop_changes()
        return started

    def due_one(self) -> Dispatch:
        (dispatch,) = self.due()
        return dispatch

    def finish(self, dispatch: Dispatch, answer: Outcome | int = 200) -> None:
        self.engine.finish_attempt(dispatch, answered(answer) if isinstance(answer, int) else answer, self.now)
        self.changes += self.engine.pop_changes()

    def next_due(self) -> float | None:
        """In how many seconds the engine wants to be asked again."""
        wake = self.engine.next_wake_time()
        return None if wake is None else wake - self.now
