"""
The console: pages over a relay's public API, with more of a relay that runs in the same process.

The token that the API wants stays here; a browser gets pages and rows, and never more than the relay would tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Flask, Response, render_template, request
from jinja2 import TemplateError
from werkzeug.exceptions import HTTPException

from traced_relay.console import pages
from traced_relay.console.bounded_ask import ODD, BoundedClient, hint_of, status_of, unreadable
from traced_relay.console.dev_data import QUEUE_VERBS, DevData, dev_data_routes
from traced_relay.console.sanitize import legible
from traced_relay.console.security import protect
from traced_relay.errors import InvalidCall, NotFound, RelayError
from traced_relay.runtime.clock import SystemClock
from traced_relay.tasks.states import STATES

if TYPE_CHECKING:
    from collections.abc import Callable

    from traced_relay.client.client import Client
    from traced_relay.runtime.clock import Clock

__all__ = ["Console", "DevData", "console_app"]


def console_app(
    client: Client, dev_data: DevData | None = None, *, clock: Clock | None = None, patience: float = 10.0
) -> Flask:
    """*nearby* is what `dev` knows beside the API; no page waits longer than *patience* for the relay."""
    return Console(client, dev_data, clock or SystemClock(), BoundedClient(patience)).flask_app()


class Console:
    """What the paths do."""

    def __init__(self, client: Client, dev_data: DevData | None, clock: Clock, bounded_client: BoundedClient) -> None:
        self._client = client
        self._dev_data = dev_data
        self._clock = clock
        self._bounded_client = bounded_client

    def flask_app(self) -> Flask:
        app = Flask(__name__)
        app.jinja_options = {"trim_blocks": True, "lstrip_blocks": True}
        protect(app)
        for rule, name, view in (
            ("/", "tasks", self.tasks),
            ("/rows", "rows", self.rows),
            ("/tasks/<task_id>", "task", self.task),
            ("/queues", "queues", self.queues),
        ):
            app.add_url_rule(rule, name, view)
        app.add_url_rule("/tasks/<task_id>/<verb>", "steer", self.steer, methods=["POST"])
        if self._dev_data is not None:
            app.add_url_rule("/queues/<queue>/<verb>", "steer_queue", self.steer_queue, methods=["POST"])
            app.register_blueprint(dev_data_routes(self._dev_data))
        app.context_processor(lambda: {"relay": self._client.url, "nearby": self._dev_data})
        app.register_error_handler(RelayError, _trouble)
        app.register_error_handler(HTTPException, _trouble_of_http)
        return app

    def tasks(self) -> str:
        query = request.args.to_dict()
        try:
            shown = self._ask(lambda: pages.first_page(self._client, query, self._clock.now()))
        except InvalidCall as exc:
            shown = {"rows": [], "more": False, "states": STATES, "mistake": _said(exc)}
        return _drawn("tasks.html", query=query, **shown)

    def rows(self) -> dict[str, Any]:
        query = request.args.to_dict()
        page: dict[str, Any] = self._ask(lambda: pages.page_of_rows(self._client, query, self._clock.now()))
        return page

    def task(self, task_id: str) -> str:
        seen = self._ask(lambda: pages.task(self._client, self._dev_data, task_id, self._clock.now()))
        return _drawn("task.html", **seen)

    def queues(self) -> str:
        seen = self._ask(lambda: pages.queues(self._client, self._clock.now()))
        return _drawn("queues.html", verbs=QUEUE_VERBS if self._dev_data else {}, **seen)

    def steer(self, task_id: str, verb: str) -> dict[str, str]:
        verbs: dict[str, Callable[[str], object]] = {
            "cancel": self._client.cancel,
            "redrive": self._client.redrive,
            "resend-callback": self._client.resend_callback,
        }
        if self._dev_data is not None:
            verbs["run"] = self._run_now
        if verb not in verbs:
            raise NotFound(f"there is no verb {verb[:40]}")
        self._ask(lambda: verbs[verb](task_id))
        return {}

    def _run_now(self, task_id: str) -> None:
        """Dispatch the task that waits; its number is one further, or more where one was removed in between."""
        document = self._client.status(task_id)
        refusal = InvalidCall("the queue has no task of it", status=409)
        for number in range(document["attempt"] + 1, document["attempt"] + 4):
            try:
                self._tell_queue("RunTask", f"{document['queue']}/tasks/{task_id}-{number}")
            except InvalidCall as exc:
                refusal = exc
            else:
                return
        raise refusal

    def steer_queue(self, queue: str, verb: str) -> dict[str, str]:
        if verb not in QUEUE_VERBS:
            raise NotFound(f"there is no verb {verb[:40]}")
        self._tell_queue(QUEUE_VERBS[verb], queue)
        return {}

    def _tell_queue(self, method: str, name: str) -> None:
        assert self._dev_data is not None  # noqa: S101  (its routes are there with it alone)
        self._dev_data.tell_queue(method, name)

    def _ask(self, question: Callable[[], Any]) -> Any:
        return self._bounded_client.ask(question)


def _drawn(template: str, **shown: Any) -> str:
    """What a relay of another kind has put where something else belongs shows here at the latest."""
    try:
        return render_template(template, **shown)
    except (*ODD, TemplateError) as exc:
        raise unreadable(exc) from exc


def _trouble(error: RelayError) -> Any:
    status = status_of(error)
    if _wants_json():
        return {"trouble": _said(error)}, status
    return render_template("trouble.html", said=_said(error), hint=hint_of(error)), status


def _trouble_of_http(error: HTTPException) -> Any:
    status = error.code or 500
    if isinstance(error.response, Response) or status < 400:
        return error
    if _wants_json():
        return {"trouble": error.name}, status
    return render_template("trouble.html", said=error.name, hint=""), status


def _wants_json() -> bool:
    return request.method == "POST" or request.path == "/rows"


def _said(error: RelayError) -> str:
    fields = getattr(error, "errors", ())
    told = "; ".join(f"{field.field} {field.message}" for field in fields)
    return str(legible(told or str(error)))
