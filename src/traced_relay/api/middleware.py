"""Authentication in front of the application: a refused request makes one record, no span, and goes no further."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from werkzeug.datastructures import EnvironHeaders

from traced_relay.api import problems
from traced_relay.cloud_tasks.delivery import APP_ENGINE, HTTP_TARGET, Dispatch
from traced_relay.errors import NotAuthorized, Unavailable, without_values

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from traced_relay.api.auth import Authenticator
    from traced_relay.relay.task_log import TaskLog

PRINCIPAL = "traced_relay.principal"
DISPATCH = "traced_relay.dispatch"
_API = "/v1/"
_PATH = re.compile(r"[a-zA-Z0-9/:._-]{0,200}")
_OPEN = ("/health", "/ready", "/openapi.json", "/_ah/start", "/_ah/stop", "/_ah/warmup")


@dataclass(frozen=True)
class AuthMiddleware:
    """
    WSGI: open paths pass, `/dispatch` needs Cloud Tasks, `/sweep` the cron, `/v1/` a caller.

    Any other path is a 404 without authentication and without a record, because scanners try such paths all day.
    """

    app: WSGIApplication
    authenticator: Authenticator
    task_log: TaskLog

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path, headers = _path(environ), EnvironHeaders(environ)
        is_dispatch = path == "/dispatch"
        try:
            self.authenticator.check_host(environ.get("HTTP_HOST", ""))
            if path == "/sweep" or environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
                self.authenticator.check_site(headers)
            if is_dispatch:
                environ[DISPATCH] = self.authenticator.authenticate_queue(headers)
            elif path == "/sweep":
                self.authenticator.check_sweep(headers)
            elif path.startswith(_API):
                environ[PRINCIPAL] = self.authenticator.authenticate_caller(headers)
            elif path not in _OPEN:
                return problems.problem(404, "the relay has no such path")(environ, start_response)
        except NotAuthorized as exc:
            self._log_refusal(environ, exc, is_dispatch=is_dispatch)
            return problems.refusal(exc)(environ, start_response)
        except Unavailable as exc:
            if is_dispatch:
                self.task_log.deferred(_unverified_dispatch(headers), reason="unavailable", detail=str(exc))
            else:
                self.task_log.enqueue_rejected(reason="unavailable", detail=str(exc))
            status = 500 if is_dispatch else 503  # a 503 at /dispatch makes App Engine slow down the whole queue
            return problems.problem(status, problems.detail_of(exc))(environ, start_response)
        return self.app(environ, start_response)

    def _log_refusal(self, environ: WSGIEnvironment, refusal: NotAuthorized, *, is_dispatch: bool) -> None:
        if is_dispatch:
            self.task_log.dispatch_rejected(
                _unverified_dispatch(EnvironHeaders(environ)),
                reason=refusal.reason,
                detail=without_values(refusal),
                principal=refusal.email,
            )
            return
        path = _PATH.match(_path(environ))  # decoded, so that %3F would start a query here
        detail = f"{environ['REQUEST_METHOD']} {path[0] if path else ''}: {without_values(refusal)}"
        self.task_log.enqueue_rejected(reason=refusal.reason, detail=detail, principal=refusal.email)


def _path(environ: WSGIEnvironment) -> str:
    """The path as Flask routes it."""
    path: str = environ["PATH_INFO"]
    return "/" + path.lstrip("/")


def _unverified_dispatch(headers: EnvironHeaders) -> Dispatch:
    """The dispatch that the headers claim, for the record of its refusal."""
    family = APP_ENGINE if headers.get(f"{APP_ENGINE}QueueName") else HTTP_TARGET
    return Dispatch.from_headers(headers, family)
