"""The gate in front of the application: what it refuses never gets further, is one record, and makes no span."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from werkzeug.wrappers import Request

from traced_relay.api import problems
from traced_relay.cloud_tasks.delivery import APP_ENGINE, HTTP_TARGET, Dispatch
from traced_relay.errors import NotAuthorized, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from traced_relay.api.auth import Gate
    from traced_relay.relay.task_log import TaskLog

PRINCIPAL = "traced_relay.principal"
DISPATCH = "traced_relay.dispatch"
_API = "/v1/"
_PATH = re.compile(r"[a-zA-Z0-9/:._-]{0,200}")
_OPEN = ("/health", "/ready", "/openapi.json", "/_ah/start", "/_ah/stop", "/_ah/warmup")


class AuthMiddleware:
    """
    WSGI: open paths pass, `/dispatch` asks for the queue, the API for a caller.

    What the relay does not have is a 404 before anybody is asked for, and no record: scanners try such paths all day.
    """

    def __init__(self, app: WSGIApplication, gate: Gate, task_log: TaskLog) -> None:
        self._app = app
        self._gate = gate
        self._task_log = task_log

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        at_queue = request.path == "/dispatch"
        try:
            self._gate.admit_host(request.headers.get("Host", ""))
            if request.method not in ("GET", "HEAD") or request.path == "/sweep":
                self._gate.admit_site(request.headers)
            if at_queue:
                environ[DISPATCH] = self._gate.admit_queue(request.headers)
            elif request.path == "/sweep":
                self._gate.admit_sweep(request.headers)
            elif request.path.startswith(_API):
                environ[PRINCIPAL] = self._gate.admit_caller(request.headers)
            elif request.path not in _OPEN:
                return problems.problem(404, "the relay has nothing at this path")(environ, start_response)
        except NotAuthorized as exc:
            self._say(request, exc, at_queue=at_queue)
            return problems.refusal(exc)(environ, start_response)
        except Unavailable as exc:
            # A 503 at /dispatch would make App Engine's queue slow down as a whole.
            status = 500 if at_queue else 503
            if at_queue:
                self._task_log.deferred(_claimed(request), reason="unavailable", detail=str(exc))
            else:
                self._task_log.enqueue_rejected(reason="unavailable", detail=str(exc))
            return problems.problem(status, problems.detail_of(exc))(environ, start_response)
        return self._app(environ, start_response)

    def _say(self, request: Request, refusal: NotAuthorized, *, at_queue: bool) -> None:
        if not at_queue:
            path = _PATH.match(request.path)  # decoded, so that %3F would begin a query here
            detail = f"{request.method} {path[0] if path else ''}: {refusal}"
            self._task_log.enqueue_rejected(reason=refusal.reason, detail=detail, principal=refusal.email)
            return
        self._task_log.dispatch_rejected(
            _claimed(request), reason=refusal.reason, detail=str(refusal), principal=refusal.email
        )


def _claimed(request: Request) -> Dispatch:
    """What a delivery says of itself, whoever it is from."""
    family = APP_ENGINE if request.headers.get(f"{APP_ENGINE}QueueName") else HTTP_TARGET
    return Dispatch.from_headers(request.headers, family)
