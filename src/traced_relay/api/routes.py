"""The Flask application: paths to flows, errors to problems. No rule lives here."""

from __future__ import annotations

import json
import logging
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.exceptions import NotFound as NotFoundHere

from traced_relay.api import listing, openapi, problems
from traced_relay.api.limits import MAX_DISPATCH, MAX_REQUEST
from traced_relay.api.middleware import DISPATCH, PRINCIPAL
from traced_relay.errors import (
    EnqueueFailed,
    FieldError,
    InvalidCall,
    NotAuthorized,
    NotFound,
    RelayError,
    Unavailable,
    UnsupportedCoding,
)
from traced_relay.formats import strict_json, validation
from traced_relay.relay.enqueue import receipt
from traced_relay.tasks import enqueue_request, status_document
from traced_relay.tasks.ids import callback_id
from traced_relay.tracing import instrumentation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from traced_relay.cloud_tasks.delivery import Dispatch
    from traced_relay.cloud_tasks.queue_status import QueueStatuses
    from traced_relay.ledger.protocol import Ledger
    from traced_relay.relay.actions import TaskActions
    from traced_relay.relay.dispatch import Dispatcher
    from traced_relay.relay.enqueue import Enqueuer
    from traced_relay.relay.policy import Principal
    from traced_relay.relay.sweeper import Sweeper
    from traced_relay.relay.task_log import TaskLog
    from traced_relay.runtime.clock import Clock
    from traced_relay.tasks.row import Row
    from traced_relay.tasks.status_document import Links

MAX_BATCH = 100
LENGTH_OF_ID, SHORTEST_ID = 32, 4  # hexadecimal digits
MOST_ALIKE = 50  # rows that are read to find the one with a short id

_logger = logging.getLogger(__name__)


class Api:
    """What the paths do. *links* are for whoever asks now, by the name that he knows this service by."""

    def __init__(
        self,
        *,
        enqueuer: Enqueuer,
        relay: Dispatcher,
        ledger: Ledger,
        task_log: TaskLog,
        clock: Clock,
        retention: float,
        actions: TaskActions,
        sweeper: Sweeper,
        queues: QueueStatuses,
        is_ready: Callable[[], bool],
        links: Callable[[], Links],
    ) -> None:
        self._enqueuer = enqueuer
        self._relay = relay
        self._ledger = ledger
        self._task_log = task_log
        self._clock = clock
        self._retention = retention
        self._actions = actions
        self._sweeper = sweeper
        self._queues = queues
        self._is_ready = is_ready
        self._links = links

    def flask_app(self) -> Flask:
        app = Flask("traced_relay")
        app.config["MAX_CONTENT_LENGTH"] = MAX_REQUEST
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
            ("/health", ["GET"], _alive),
            ("/ready", ["GET"], self.ready),
            ("/openapi.json", ["GET"], _described),
            ("/_ah/start", ["GET"], _alive),
            ("/_ah/warmup", ["GET"], _alive),
            ("/_ah/stop", ["GET"], _alive),
        ):
            endpoint = f"{methods[0]} {rule}"
            app.add_url_rule(rule, endpoint, view, methods=methods, provide_automatic_options=False)
        app.register_error_handler(RelayError, self._on_error)
        app.register_error_handler(HTTPException, _on_http_error)
        app.register_error_handler(Exception, _on_surprise)
        return app

    def enqueue(self) -> Response:
        document, key = _json_body(), _key()
        made = self._enqueuer.enqueue(document, _principal(), key)
        document = receipt(made, self._links())
        response = _answer(document, 202)
        if made.has_status:
            response.headers["Location"] = document["links"]["status"]
        return response

    def enqueue_batch(self) -> Response:
        document, key = _json_body(), _key()
        match document:
            case {"tasks": [*tasks], **others} if not others and len(tasks) <= MAX_BATCH:
                return _answer({"tasks": self._batch(tasks, key)}, 200)
            case dict() if unknown := sorted(document.keys() - {"tasks"}):
                raise validation.invalid_call([FieldError(name, "is not a known field") for name in unknown[:20]])
        raise validation.invalid_call([FieldError("tasks", f"must be a list of at most {MAX_BATCH} tasks")])

    def _batch(self, tasks: Sequence[Any], key: str | None) -> list[dict[str, Any]]:
        """A receipt or a problem each; once the ledger or the queue is away, the rest does not wait for it too."""
        items: list[dict[str, Any]] = []
        away: Unavailable | None = None
        for index, document in enumerate(tasks):
            try:
                if away is not None:
                    raise away
                made = self._enqueuer.enqueue(document, _principal(), key and f"{key}\n{index}")
                items.append(receipt(made, self._links()))
            except RelayError as exc:
                away = exc if isinstance(exc, Unavailable) else None
                self._say_rejected(exc)
                status = problems.status_of(exc)
                items.append(problems.document_of(status, problems.detail_of(exc), problems.fields_of(exc)))
        return items

    def status(self, task_id: str) -> Response:
        return self._document(self._row(task_id), 200)

    def cancel(self, task_id: str) -> Response:
        row = self._row(task_id)
        return self._document(self._actions.cancel(row, _principal().name), 200 if row.state == "cancelled" else 202)

    def redrive(self, task_id: str) -> Response:
        row, principal = self._row(task_id), _principal()
        if not (principal.is_operator or (principal.may_use_queue(row.queue) and principal.may_call(row.rule or ""))):
            raise NotAuthorized("you may not make this call any more", status=403, reason="not_allowed")
        return self._document(self._actions.redrive(row, principal.name), 202)

    def resend_callback(self, task_id: str) -> Response:
        return self._document(self._actions.resend_callback(self._row(task_id), _principal().name), 202)

    def queues(self) -> Response:
        if not _principal().is_operator:
            raise NotAuthorized("only operators may look at the queues", status=403, reason="not_an_operator")
        return _answer({"queues": self._queues.seen()}, 200)

    def sweep(self) -> Response:
        self._sweeper.sweep()
        return _answer({"status": "swept"}, 200)

    def _row(self, task_id: str) -> Row:
        """The row, for whoever may see it; to all others it is not there."""
        if request.method == "POST":
            _refuse_codings()
        if (request.content_length or 0) >= MAX_REQUEST:
            raise _too_large()
        is_id = re.fullmatch(r"[0-9a-fA-F]{1,32}", task_id)
        row = self._ledger.get(self._whole_id(task_id.lower())) if is_id else None
        if row is None or not _may_see(row):
            raise NotFound(f"there is no task {task_id[:40]!a} that you may see")
        return row

    def _whole_id(self, task_id: str) -> str:
        """The one id that begins like this, among those that the caller may see; the same where none does."""
        if len(task_id) == LENGTH_OF_ID:
            return task_id
        if len(task_id) < SHORTEST_ID:
            raise validation.invalid_call(
                [FieldError("task_id", f"must have at least {SHORTEST_ID} digits, got {task_id!a}")]
            )
        found = self._ledger.starting_with(task_id, MOST_ALIKE)
        fitting = [row.task_id for row in found if _may_see(row)]
        if len(fitting) > 1 or len(found) == MOST_ALIKE:
            named = ", ".join(fitting[:5]) + (", …" if len(fitting) > 5 else "")
            listed = f": {named}" if named else ""
            raise validation.invalid_call(
                [FieldError("task_id", f"{task_id!a} fits several tasks, give more digits{listed}")]
            )
        return fitting[0] if fitting else task_id

    def _document(self, row: Row, status: int) -> Response:
        seen, callback = self._seen([row]), self._callbacks([row])
        document = status_document.status(row, self._links(), **self._context(row, seen, callback))
        return _answer(document, status)

    def _seen(self, rows: Sequence[Row]) -> Mapping[str, float]:
        """When those who run any of the rows were last seen."""
        return self._ledger.heartbeats({row.worker for row in rows if row.worker is not None})

    def _callbacks(self, rows: Sequence[Row]) -> Mapping[str, Row]:
        """The callbacks of those of the rows that want one, by their ids."""
        return self._ledger.get_many([callback_id(row.task_id, row.round) for row in rows if row.wants_callback])

    def _context(self, row: Row, seen: Mapping[str, float], callbacks: Mapping[str, Row]) -> dict[str, Any]:
        return {
            "now": self._clock.now(),
            "retention": self._retention,
            "heartbeat_at": seen.get(row.worker or ""),
            "callback": callbacks.get(callback_id(row.task_id, row.round)),
        }

    def list(self) -> Response:
        principal = _principal()
        caller = None if principal.is_operator else principal.name
        selection, limit = listing.read(request.args.items(multi=True), caller=caller, now=self._clock.now())
        rows = self._ledger.select(selection, limit + 1)
        shown, links = rows[:limit], self._links()
        seen, callbacks = self._seen(shown), self._callbacks(shown)
        return _answer(
            {
                "tasks": [status_document.summary(row, links, **self._context(row, seen, callbacks)) for row in shown],
                "next_page_token": listing.page_token(shown[-1]) if len(rows) > limit else None,
            },
            200,
        )

    def dispatch(self) -> Response:
        request.max_content_length = MAX_DISPATCH
        dispatch: Dispatch = request.environ[DISPATCH]
        try:
            answer = self._relay.dispatch(dispatch, _content())
        except (Unavailable, EnqueueFailed) as exc:
            self._task_log.deferred(dispatch, reason="unavailable", detail=str(exc))
            return _answer({"state": None, "reason": "deferred"}, 500)
        row = answer.row
        seen = {"task_id": row.task_id, "attempt": row.attempt, "state": row.state} if row else {}
        return _answer(seen | {"reason": answer.reason or (row.reason if row else None)}, answer.status_code)

    def ready(self) -> Response:
        ready = self._is_ready()
        return _answer({"status": "ready" if ready else "unavailable"}, 200 if ready else 503)

    def _on_error(self, error: RelayError) -> Any:
        status = problems.status_of(error)
        if request.path in ("/v1/tasks", "/v1/tasks:batch") and request.method == "POST":
            self._say_rejected(error)
            if status < 500:
                instrumentation.refuse()
        answer = problems.problem(status, problems.detail_of(error), problems.fields_of(error))
        if isinstance(error, UnsupportedCoding):
            answer.headers["Accept-Encoding"] = "identity"
        return answer

    def _say_rejected(self, error: RelayError) -> None:
        reason = "invalid" if isinstance(error, InvalidCall) else "unavailable"
        self._task_log.enqueue_rejected(reason=reason, detail=str(error)[:1000], principal=_principal().name)


def _on_http_error(error: HTTPException) -> Any:
    if error.code == HTTPStatus.METHOD_NOT_ALLOWED and re.fullmatch(r"/v1/tasks/[^/]*:[^/]*", request.path):
        error = NotFoundHere()  # a verb that there is not, which the router takes for an id
    answer = problems.problem(error.code or 500, error.description or error.name)
    answer.headers.extend((name, value) for name, value in error.get_headers() if name == "Allow")
    return answer


def _on_surprise(error: Exception) -> Any:
    _logger.error("a request could not be answered", exc_info=error)
    return problems.problem(500, "the relay met an error of its own; it is in the log")


def _too_large() -> InvalidCall:
    return InvalidCall(f"the request must take less than {MAX_REQUEST} bytes", status=413)


def _content() -> bytes:
    try:
        return request.get_data()
    except RequestEntityTooLarge:
        raise
    except Exception as exc:  # each server has errors of its own for a body that breaks HTTP
        raise InvalidCall("the body breaks the rules of HTTP and cannot be read", status=400) from exc


def _alive() -> Response:
    return _answer({"status": "ok"}, 200)


def _described() -> Response:
    return _answer(openapi.document(), 200)


def _principal() -> Principal:
    principal: Principal = request.environ[PRINCIPAL]
    return principal


def _may_see(row: Row) -> bool:
    principal = _principal()
    return principal.is_operator or row.caller == principal.name


def _refuse_codings() -> None:
    """Refuse content that has a content coding (RFC 9110, section 8.4), or a transfer coding other than chunked."""
    if _codings("Content-Encoding") - {"identity"}:
        raise UnsupportedCoding("the content must be sent without a content coding", status=415)
    if _codings("Transfer-Encoding") - {"chunked", "identity"}:
        raise InvalidCall("the only transfer coding that the relay decodes is chunked", status=501)


def _codings(name: str) -> set[str]:
    return {coding.strip().lower() for coding in request.headers.get(name, "").split(",")} - {""}


def _key() -> str | None:
    return enqueue_request.idempotency_key(request.headers.get("Idempotency-Key"))


def _json_body() -> Any:
    _refuse_codings()
    if request.mimetype != "application/json":
        raise InvalidCall("the content type must be application/json", status=415)
    try:
        body = _content()
    except RequestEntityTooLarge:
        raise _too_large() from None
    if len(body) >= MAX_REQUEST:
        raise _too_large()  # where the length is not announced the body is cut there, without a word
    try:
        return strict_json.loads(body)
    except strict_json.NotJson as exc:
        raise InvalidCall(str(exc), status=400) from None


def _answer(document: Any, status: int) -> Response:
    response = Response(json.dumps(document), status, content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response
