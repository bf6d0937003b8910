"""
A relay on a stage: its clock turned by hand, a minute at a time with a sweep in each, and what a play does with it.

Hours of trouble take a second.
"""

from __future__ import annotations

import base64
import json
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from support.asking import ask, get, post
from traced_relay.runtime.clock import SystemClock
from traced_relay.tasks.ids import adopted_task_id, callback_id
from traced_relay.testing import Downstream, ManualClock, RunningRelay

if TYPE_CHECKING:
    from collections.abc import Callable

    from werkzeug.wrappers import Response

    from traced_relay.testing import Arrived

QUEUES = "projects/test-project/locations/us-central1/queues"
AT_ONCE = {"min_backoff": "0s", "max_backoff": "0s", "jitter": "none"}
FROM_CRON = {"X-Appengine-Cron": "true"}


@dataclass(frozen=True)
class Run:
    """What one relay printed between two moments of its clock."""

    name: str
    lines: tuple[str, ...]
    began: float
    ended: float


class Stage:
    """A relay, its clock, and what a run does with them."""

    def __init__(self, *, is_on_disk: bool = False, **settings: Any) -> None:
        self._open = ExitStack()
        self._is_on_disk = is_on_disk
        self._settings = settings
        now = SystemClock().now()  # by which tokens are judged
        self.clock = ManualClock(now - now % 60)
        self.began = self.clock.now()

    def __enter__(self) -> Self:
        if self._is_on_disk:
            folder = self._open.enter_context(tempfile.TemporaryDirectory())
            self._settings["ledger"] = Path(folder) / "ledger.db"
        self.relay = self._open.enter_context(RunningRelay(clock=self.clock, **self._settings))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def downstream(self, *script: int | Response | Callable[[Arrived], Response]) -> Downstream:
        return self._open.enter_context(Downstream(*script))

    def enqueue(self, url: str, **fields: Any) -> str:
        answer = post(f"{self.relay.url}/v1/tasks", {"url": url, "retry": AT_ONCE} | fields)
        assert answer.status == 202, answer.document
        return str(answer.document["task_id"])

    def finish(self, url: str, **fields: Any) -> str:
        """Enqueue, and wait for the end."""
        task_id = self.enqueue(url, **fields)
        self.relay.wait_for("task.finished", task_id)
        return task_id

    def minutes(self, count: int) -> None:
        for _ in range(count):
            self.clock.advance(60)
            assert ask("GET", f"{self.relay.url}/sweep", headers=FROM_CRON).status == 200

    def told(self, task_id: str) -> dict[str, Any]:
        """The end of the callback of a task."""
        return self.relay.wait_for("task.finished", callback_id(task_id, 1))

    def of_queue(self, verb: str, queue: str = "relay") -> None:
        assert ask("POST", f"{self.relay.queue.rest_url}/v2/{QUEUES}/{queue}:{verb}").status == 200

    def wait_for_task(self, queue: str, name: str) -> None:
        """Until the queue has it."""
        for _ in range(5000):
            if get(f"{self.relay.queue.rest_url}/v2/{QUEUES}/{queue}/tasks/{name}").status == 200:
                return
        raise AssertionError(f"no task {name}")

    def dispatch(self, body: bytes = b"", **headers: str) -> int:
        return ask("POST", f"{self.relay.url}/dispatch", body=body, headers=headers).status

    def by_hand(self, url: str) -> None:
        """Make a bare task, as any client of Cloud Tasks may, and wait until it has been worked."""
        body = base64.b64encode(json.dumps({"url": url}).encode()).decode()
        request = {"relativeUri": "/dispatch", "body": body}
        made = post(f"{self.relay.queue.rest_url}/v2/{QUEUES}/relay/tasks", {"task": {"appEngineHttpRequest": request}})
        assert made.status == 200, made.document
        self.relay.wait_for("task.finished", adopted_task_id(made.document["name"]))

    def run(self, name: str) -> Run:
        stream: Any = self.relay.log.handler.stream
        return Run(name, tuple(stream.getvalue().splitlines()), self.began, self.clock.now())
