"""The Flask application: paths to flows, errors to problems. No rule lives here."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from flask import Flask, Response, request
from flask.sessions import NullSession, SessionInterface
from werkzeug import exceptions
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from traced_relay.api import openapi, problems
from traced_relay.api.limits import MAX_DISPATCH, MAX_REQUEST
from traced_relay.api.middleware import DISPATCH, PRINCIPAL
from traced_relay.api.schemas import MAX_BATCH
from traced_relay.errors import (
    EnqueueFailed,
    FieldError,
    InvalidCall,
    NotAuthorized,
    RelayError,
    Unavailable,
    UnsupportedCoding,
    without_values,
)
from traced_relay.formats import strict_json, validation
from traced_relay.tasks import enqueue_request
from traced_relay.tracing import instrumentation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from traced_relay.api.task_reader import TaskReader
    from traced_relay.cloud_tasks.delivery import Dispatch
    from traced_relay.cloud_tasks.queue_status import QueueStatuses
    from traced_relay.relay.actions import TaskActions
    from traced_relay.relay.dispatch import DispatchHandler
    from traced_relay.relay.enqueue import Enqueuer
    from traced_relay.relay.policy import Principal
    from traced_relay.relay.sweeper import Sweeper
    from traced_relay.relay.task_log import TaskLog
    from traced_relay.tasks.api_types import Problem, Receipt
    from traced_relay.tasks.row import Row

_logger = logging.getLogger(__name__)


class _NoSessions(SessionInterface):
    """The API has no cookies."""

    _none = NullSession()

    def open_session(self, app: Flask, request: Any) -> NullSession:  # noqa: ARG002  (the signature is Flask's)
        return self._none


class _Response(Response):
    """A response whose headers are final: absolute Location, known length."""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(self.status, self.headers.to_wsgi_list())
        return () if environ["REQUEST_METHOD"] == "HEAD" else [self.get_data()]


@dataclass(frozen=True, kw_only=True)
class Api:
    """The views, in the order of their paths in `flask_app`."""

    enqueuer: Enqueuer
    dispatch_handler: DispatchHandler
    tasks: TaskReader
    actions: TaskActions
    sweeper: Sweeper
    queue_statuses: QueueStatuses
    task_log: TaskLog
    is_ready: Callable[[], bool]

    def flask_app(self) -> Flask:
        app = Flask("traced_relay")
        app.config["MAX_CONTENT_LENGTH"] = MAX_REQUEST
        app.session_interface = _NoSessions()
        app.response_class = _Response
        for rule, methods, view in (
            ("/v1/tasks", ["POST"], self.enqueue),
            ("/v1/tasks:batch", ["POST"], self.enqueue_batch),
            ("/v1/tasks", ["GET"], self.list),
            ("/v1/tasks/<task_id>", ["GET"], self.status),
            ("/v1/tasks/<task_id>:cancel", ["POST"], self.cancel),
            ("/v1/tasks/<task_id>:redrive", ["POST"], self.redrive),
            ("/v1/tasks/<task_id>:resend-callback", ["POST"], self.resend_callback),
            ("/v1/queues", ["GET"], self.queues),
            ("/sweep", ["GET"], self.sweep),
            ("/dispatch", ["POST"], self.dispatch),
            ("/ready", ["GET"], self.ready),
            ("/openapi.json", ["GET"], _openapi),
            ("/health", ["GET"], _health),
            ("/_ah/start", ["GET"], _health),
            ("/_ah/warmup", ["GET"], _health),
            ("/_ah/stop", ["GET"], _health),
        ):
            endpoint = f"{methods[0]} {rule}"
            app.add_url_rule(rule, endpoint, view, methods=methods, provide_automatic_options=False)
        app.register_error_handler(RelayError, self._on_relay_error)
        app.register_error_handler(HTTPException, _on_http_error)
        app.register_error_handler(Exception, _on_unexpected_error)
        return app

    def enqueue(self) -> Response:
        document, key = _json_body(), _idempotency_key()
        receipt = self.enqueuer.enqueue(document, _principal(), key)
        response = _json(receipt, 202)
        if (status_url := receipt["links"]["status"]) is not None:
            response.headers["Location"] = status_url
        return response

    def enqueue_batch(self) -> Response:
        document, key = _json_body(), _idempotency_key()
        match document:
            case {"tasks": [*tasks], **others} if not others and len(tasks) <= MAX_BATCH:
                return _json({"tasks": self._enqueue_all(tasks, key)}, 200)
            case dict() if unknown := sorted(document.keys() - {"tasks"}):
                raise validation.invalid_call([FieldError(name, "is not a known field") for name in unknown[:20]])
        raise validation.invalid_call([FieldError("tasks", f"must be a list of at most {MAX_BATCH} tasks")])

    def _enqueue_all(self, tasks: Sequence[Any], key: str | None) -> list[Receipt | Problem]:
        """A receipt or problem each; after one is Unavailable the rest fail at once instead of each timing out."""
        items: list[Receipt | Problem] = []
        unavailable: Unavailable | None = None
        for index, document in enumerate(tasks):
            try:
                if unavailable is not None:
                    raise unavailable
                items.append(self.enqueuer.enqueue(document, _principal(), key and f"{key}\n{index}"))
            except RelayError as exc:
                unavailable = exc if isinstance(exc, Unavailable) else None
                self._log_rejected(exc)
                status = problems.status_of(exc)
                items.append(problems.document_of(status, problems.detail_of(exc), problems.fields_of(exc)))
        return items

    def list(self) -> Response:
        principal = _principal()
        with self.tasks.pacer.turn(principal.name):
            return _json(self.tasks.page(request.args.items(multi=True), principal), 200)

    def status(self, task_id: str) -> Response:
        return self._status(self._find(task_id), 200)

    def cancel(self, task_id: str) -> Response:
        row = self._find(task_id)
        return self._status(self.actions.cancel(row, _principal().name), 200 if row.state == "cancelled" else 202)

    def redrive(self, task_id: str) -> Response:
        row, principal = self._find(task_id), _principal()
        if not (principal.is_operator or (principal.may_use_queue(row.queue) and principal.may_call(row.rule or ""))):
            detail = f"{principal.name} may no longer use the task's queue or downstream"
            raise NotAuthorized(detail, status=403, reason="not_allowed")
        return self._status(self.actions.redrive(row, principal.name), 202)

    def resend_callback(self, task_id: str) -> Response:
        return self._status(self.actions.resend_callback(self._find(task_id), _principal().name), 202)

    def _find(self, task_id: str) -> Row:
        if request.method == "POST":
            _check_codings()
        if (request.content_length or 0) >= MAX_REQUEST:
            raise _too_large()
        return self.tasks.find(task_id, _principal())

    def _status(self, row: Row, status: int) -> Response:
        return _json(self.tasks.status(row), status)

    def queues(self) -> Response:
        if not _principal().is_operator:
            raise NotAuthorized("only operators may list the queues", status=403, reason="not_an_operator")
        return _json({"queues": self.queue_statuses.get()}, 200)

    def sweep(self) -> Response:
        self.sweeper.sweep()
        return _json({"status": "swept"}, 200)

    def dispatch(self) -> Response:
        request.max_content_length = MAX_DISPATCH
        dispatch: Dispatch = request.environ[DISPATCH]
        try:
            result = self.dispatch_handler.dispatch(dispatch, _content())
        except (Unavailable, EnqueueFailed) as exc:
            self.task_log.deferred(dispatch, reason="unavailable", detail=str(exc))
            return _json({"state": None, "reason": "deferred"}, 500)
        row = result.row
        task = {"task_id": row.task_id, "attempt": row.attempt, "state": row.state} if row else {}
        return _json(task | {"reason": result.reason or (row.reason if row else None)}, result.status_code)

    def ready(self) -> Response:
        ready = self.is_ready()
        return _json({"status": "ready" if ready else "unavailable"}, 200 if ready else 503)

    def _on_relay_error(self, error: RelayError) -> Any:
        status = problems.status_of(error)
        if request.path in ("/v1/tasks", "/v1/tasks:batch") and request.method == "POST":
            self._log_rejected(error)
            if status < 500:
                instrumentation.discard_current_span()
        response = problems.problem(status, problems.detail_of(error), problems.fields_of(error))
        if isinstance(error, UnsupportedCoding):
            response.headers["Accept-Encoding"] = "identity"
        return response

    def _log_rejected(self, error: RelayError) -> None:
        reason = "invalid" if isinstance(error, InvalidCall) else "unavailable"
        self.task_log.enqueue_rejected(reason=reason, detail=without_values(error)[:1000], principal=_principal().name)


def _openapi() -> Response:
    return _json(openapi.document(), 200)


def _health() -> Response:
    return _json({"status": "ok"}, 200)


def _on_http_error(error: HTTPException) -> Any:
    if error.code == HTTPStatus.METHOD_NOT_ALLOWED and re.fullmatch(r"/v1/tasks/[^/]*:[^/]*", request.path):
        error = exceptions.NotFound()  # the router takes an unknown action for part of an id
    response = problems.problem(error.code or 500, error.description or error.name)
    response.headers.extend((name, value) for name, value in error.get_headers() if name == "Allow")
    return response


def _on_unexpected_error(error: Exception) -> Any:
    _logger.error("unexpected error in a request", exc_info=error)
    return problems.problem(500, "internal error of the relay; its log has the details")


def _principal() -> Principal:
    principal: Principal = request.environ[PRINCIPAL]
    return principal


def _idempotency_key() -> str | None:
    return enqueue_request.idempotency_key(request.headers.get("Idempotency-Key"))


def _json_body() -> Any:
    _check_codings()
    if request.mimetype != "application/json":
        got = request.mimetype[:100]
        raise InvalidCall(f"Content-Type: must be application/json, got {got!a}", status=415)
    try:
        body = _content()
    except RequestEntityTooLarge:
        raise _too_large() from None
    if len(body) >= MAX_REQUEST:
        raise _too_large()  # werkzeug truncates a body of unknown length at the limit, without an error
    try:
        return strict_json.loads(body)
    except strict_json.NotJson as exc:
        raise InvalidCall(str(exc), status=400) from None


def _check_codings() -> None:
    """Refuse a content coding (RFC 9110, section 8.4), and a transfer coding other than chunked."""
    if not ("Content-Encoding" in request.headers or "Transfer-Encoding" in request.headers):
        return
    if wrong := _codings("Content-Encoding") - {"identity"}:
        raise UnsupportedCoding(f"Content-Encoding: must be absent or identity, got {_listed(wrong)}", status=415)
    if wrong := _codings("Transfer-Encoding") - {"chunked", "identity"}:
        raise InvalidCall(f"Transfer-Encoding: must be absent or chunked, got {_listed(wrong)}", status=501)


def _codings(name: str) -> set[str]:
    return {coding.strip().lower() for coding in request.headers.get(name, "").split(",")} - {""}


def _listed(codings: set[str]) -> str:
    return ascii(", ".join(sorted(codings))[:100])


def _content() -> bytes:
    try:
        return request.get_data()
    except RequestEntityTooLarge:
        raise
    except Exception as exc:  # each server has its own errors for a malformed body
        raise InvalidCall("the body cannot be read: it is malformed HTTP", status=400) from exc


def _too_large() -> InvalidCall:
    return InvalidCall(f"the request must be smaller than {MAX_REQUEST} bytes", status=413)


def _json(document: Any, status: int) -> Response:
    try:
        body = msgspec.json.encode(document)
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8
        body = json.dumps(document).encode()
    return _Response(body, status, {"Cache-Control": "no-store"}, content_type="application/json")
