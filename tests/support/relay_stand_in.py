"""A relay's API without a relay behind it: serves the documents it is given, or whatever else is to be met."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Self

from werkzeug.wrappers import Request, Response

from support.example_rows import ATTEMPT, NOW, row
from traced_relay.runtime.listener import Listener
from traced_relay.tasks import status_document
from traced_relay.tasks.status_document import Context, Links

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

LINKS = Links("https://relay.example.com", "p")


def document(number: int = 0, *, at: float = NOW, **changes: Any) -> dict[str, Any]:
    """A failed task's, the higher its *number* the newer."""
    plain = {"task_id": f"{number:032x}", "created_at": at + number, "schedule_time": at + number}
    ended = {"state": "failed", "finished_at": at + number + 1, "reason": "http_503", "blame": "downstream"}
    tried = {"attempt": 1, "started": 1, "attempts": (ATTEMPT,), "next_attempt_at": None}
    made = status_document.status(row(**plain | ended | tried), Context(links=LINKS, now=at, retention=60.0))
    return made | changes


class RelayStandIn:
    """
    Serves *tasks*, newest first, in pages as they are asked for.

    *instead*, where it is set, makes every answer; *asked* are the paths that came, with their queries, *tokens* what
    they said of who asks.
    """

    def __init__(self, tasks: list[dict[str, Any]], *, port: int = 0) -> None:
        self.tasks = {task["task_id"]: task for task in tasks}
        self.order = [task["task_id"] for task in tasks]
        self.queues: list[dict[str, Any]] = []
        self.instead: Callable[[], Response] | None = None
        self.asked: list[str] = []
        self.tokens: list[str | None] = []
        self._listener = Listener(self._answer, port=port)
        self.url = self._listener.url

    def stop(self) -> None:
        self._listener.stop()

    def __enter__(self) -> Self:
        self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        self.asked.append(request.full_path)
        self.tokens.append(request.headers.get("Authorization"))
        response = self.instead() if self.instead else self._usual(request)
        return response(environ, start_response)

    def _usual(self, request: Request) -> Response:
        task_id = request.path.rpartition("/")[2]
        if request.path == "/v1/queues":
            return answer({"queues": self.queues})
        if request.path == "/v1/tasks":
            return answer(self._page(request))
        if task_id in self.tasks:
            return answer(self.tasks[task_id])
        return answer({"status": 404, "detail": "there is no such task that you may see"}, 404)

    def _page(self, request: Request) -> dict[str, Any]:
        state = request.args.get("state")
        chosen = [task for task in map(self.tasks.__getitem__, self.order) if state in (None, task["state"])]
        after, limit = request.args.get("page_token"), int(request.args["limit"])
        rest = chosen[[task["task_id"] for task in chosen].index(after) + 1 :] if after else chosen
        return {
            "tasks": rest[:limit],
            "next_page_token": rest[limit - 1]["task_id"] if len(rest) > limit else None,
        }


def answer(content: Any, status: int = 200) -> Response:
    return Response(json.dumps(content), status, content_type="application/json")
