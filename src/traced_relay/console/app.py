"""
The console: web pages over a relay's public API, with records and spans if the relay runs in the same process.

The token for the API stays in this process; the browser gets pages and rows only.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, render_template, request
from jinja2 import TemplateError
from werkzeug.exceptions import HTTPException

from traced_relay.console import pages
from traced_relay.console.bounded_ask import MALFORMED, BoundedClient, hint_of, status_of, unexpected_response
from traced_relay.console.dev_data import QUEUE_ACTIONS, DevData, dev_data_routes
from traced_relay.console.sanitize import legible
from traced_relay.console.security import protect
from traced_relay.errors import InvalidCall, NotFound, RelayError
from traced_relay.runtime.clock import SystemClock
from traced_relay.tasks.states import STATES

if TYPE_CHECKING:
    from collections.abc import Callable

    from traced_relay.client.client import Client
    from traced_relay.runtime.clock import Clock


def console_app(
    client: Client, dev_data: DevData | None = None, *, clock: Clock | None = None, patience: float = 10.0
) -> Flask:
    """*dev_data* is there only inside `dev`; a page waits at most *patience* seconds for the relay."""
    return _Console(client, dev_data, clock or SystemClock(), patience).flask_app()


class _Console:
    """The views of the console."""

    def __init__(self, client: Client, dev_data: DevData | None, clock: Clock, patience: float) -> None:
        self._client = client
        self._dev_data = dev_data
        self._clock = clock
        self._ask = BoundedClient(patience).ask

    def flask_app(self) -> Flask:
        app = Flask(__name__)
        app.jinja_options = {"trim_blocks": True, "lstrip_blocks": True}
        protect(app)
        app.add_url_rule("/", "tasks", self.tasks)
        app.add_url_rule("/rows", "rows", self.rows)
        app.add_url_rule("/tasks/<task_id>", "task", self.task)
        app.add_url_rule("/queues", "queues", self.queues)
        app.add_url_rule("/tasks/<task_id>/<action>", "act", self.act, methods=["POST"])
        if self._dev_data is not None:
            app.register_blueprint(dev_data_routes(self._dev_data))
        app.context_processor(lambda: {"relay": self._client.url, "dev_data": self._dev_data})
        app.register_error_handler(RelayError, _error_page)
        app.register_error_handler(HTTPException, _http_error_page)
        return app

    def tasks(self) -> str:
        query = request.args.to_dict()
        try:
            content = self._ask(lambda: pages.first_page(self._client, query, self._clock.now()))
        except InvalidCall as exc:
            content = {"rows": [], "more": False, "states": STATES, "invalid_filter": _message(exc)}
        return _rendered("tasks.html", query=query, **content)

    def rows(self) -> dict[str, Any]:
        query = request.args.to_dict()
        return self._ask(lambda: pages.page_of_rows(self._client, query, self._clock.now()))

    def task(self, task_id: str) -> str:
        content = self._ask(lambda: pages.task(self._client, self._dev_data, task_id, self._clock.now()))
        return _rendered("task.html", **content)

    def queues(self) -> str:
        content = self._ask(lambda: pages.queues(self._client, self._clock.now()))
        return _rendered("queues.html", actions=QUEUE_ACTIONS if self._dev_data else {}, **content)

    def act(self, task_id: str, action: str) -> dict[str, str]:
        actions: dict[str, Callable[[str], object]] = {
            "cancel": self._client.cancel,
            "redrive": self._client.redrive,
            "resend-callback": self._client.resend_callback,
        }
        if self._dev_data is not None:
            actions["run"] = partial(self._run_now, self._dev_data)
        if action not in actions:
            raise NotFound(f"unknown action {action[:40]}")
        self._ask(lambda: actions[action](task_id))
        return {}

    def _run_now(self, dev_data: DevData, task_id: str) -> None:
        """Dispatch the pending task; its number is that of the next attempt, or higher if tasks were deleted since."""
        document = self._client.status(task_id)
        error = InvalidCall("the queue has no task for the next attempt", status=409)
        for number in range(document["attempt"] + 1, document["attempt"] + 4):
            try:
                dev_data.call_queue("RunTask", f"{document['queue']}/tasks/{task_id}-{number}")
            except InvalidCall as exc:
                error = exc
            else:
                return
        raise error


def _rendered(template: str, **content: Any) -> str:
    """A value of the wrong type in a relay's response fails here at the latest."""
    try:
        return render_template(template, **content)
    except (*MALFORMED, TemplateError) as exc:
        raise unexpected_response(exc) from exc


def _error_page(error: RelayError) -> Any:
    return _error_response(_message(error), hint_of(error), status_of(error))


def _http_error_page(error: HTTPException) -> Any:
    status = error.code or 500
    if isinstance(error.response, Response) or status < 400:
        return error
    return _error_response(error.name, "", status)


def _error_response(message: str, hint: str, status: int) -> Any:
    if request.method == "POST" or request.path == "/rows":  # the page's script reads it
        return {"trouble": message}, status
    return render_template("error.html", message=message, hint=hint), status


def _message(error: RelayError) -> str:
    broken_rules = "; ".join(f"{rule.field} {rule.message}" for rule in getattr(error, "errors", ()))
    return str(legible(broken_rules or str(error)))
