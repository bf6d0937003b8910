"""The Flask application: paths to flows, errors to problems. No rule lives here."""

from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING, Any, TypeVar

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from traced_relay import border, documents, openapi, problems, strict_json, tracing
from traced_relay.arriving import MAX_DISPATCH, MAX_REQUEST
from traced_relay.documents import Links
from traced_relay.doors import DISPATCH, PRINCIPAL
from traced_relay.durations import parse_duration, parse_time
from traced_relay.errors import EnqueueFailed, FieldError, InvalidCall, NotFound, RelayError, Unavailable
from traced_relay.ledger import Selection
from traced_relay.rows import STATES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from werkzeug.datastructures import MultiDict

    from traced_relay.clock import Clock
    from traced_relay.dispatch import Dispatch
    from traced_relay.enqueue import Enqueuer
    from traced_relay.gate import Principal
    from traced_relay.journal import Journal
    from traced_relay.ledger import SqliteLedger
    from traced_relay.relay import Relay
    from traced_relay.rows import Row

MAX_BATCH = 100

T = TypeVar("T")
_logger = logging.getLogger(__name__)
_FILTERS = {"kind", "state", "queue", "rule", "reason", "version", "since", "limit", "page_token"}


class Api:
    """What the paths do. *origin* gives the scheme and host that links start with."""

    def __init__(
        self,
        *,
        enqueuer: Enqueuer,
        relay: Relay,
        ledger: SqliteLedger,
        journal: Journal,
        clock: Clock,
        project: str,
        retention: float,
        is_ready: Callable[[], bool],
        origin: Callable[[], str],
        has_console: bool,
    ) -> None:
        self._enqueuer = enqueuer
        self._relay = relay
        self._ledger = ledger
        self._journal = journal
        self._clock = clock
        self._project = project
        self._retention = retention
        self._is_ready = is_ready
        self._origin = origin
        self._has_console = has_console

    def flask_app(self) -> Flask:
        app = Flask("traced_relay")
        app.config["MAX_CONTENT_LENGTH"] = MAX_REQUEST
        for rule, methods, view in (
            ("/v1/tasks", ["POST"], self.enqueue),
            ("/v1/tasks:batch", ["POST"], self.enqueue_batch),
            ("/v1/tasks", ["GET"], self.list),
            ("/v1/tasks/<task_id>", ["GET"], self.status),
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
        document = _json_body()
        key = request.headers.get("Idempotency-Key")
        made = self._enqueuer.enqueue(document, _principal(), key)
        receipt = documents.receipt(made, self._links())
        response = _answer(receipt, 202)
        response.headers["Location"] = receipt["links"]["status"]
        return response

    def enqueue_batch(self) -> Response:
        document = _json_body()
        match document:
            case {"tasks": [*tasks], **others} if not others and len(tasks) <= MAX_BATCH:
                key = request.headers.get("Idempotency-Key")
                return _answer({"tasks": self._batch(tasks, key)}, 200)
        raise border.refusal([FieldError("tasks", f"must be a list of at most {MAX_BATCH} tasks, and all there is")])

    def _batch(self, tasks: Sequence[Any], key: str | None) -> list[dict[str, Any]]:
        """A receipt or a problem each; once the queue is away, the rest is not kept waiting for it too."""
        items: list[dict[str, Any]] = []
        away: Unavailable | None = None
        for index, document in enumerate(tasks):
            try:
                if away is not None:
                    raise away
                made = self._enqueuer.enqueue(document, _principal(), key and f"{key}\n{index}")
                items.append(documents.receipt(made, self._links()))
            except RelayError as exc:
                away = exc if isinstance(exc, Unavailable) else None
                self._say_rejected(exc)
                status = problems.status_of(exc)
                items.append(problems.document_of(status, problems.detail_of(exc), problems.fields_of(exc)))
        return items

    def status(self, task_id: str) -> Response:
        row = self._ledger.get(task_id) if re.fullmatch(r"[0-9a-f]{32}", task_id) else None
        if row is None or not _may_see(row):
            raise NotFound(f"there is no task {task_id[:40]!a} that you may see")
        seen = self._ledger.heartbeats().get(row.worker or "")
        now = self._clock.now()
        return _answer(documents.status(row, self._links(), now=now, retention=self._retention, heartbeat_at=seen), 200)

    def list(self) -> Response:
        selection, limit = self._selection(request.args)
        rows = self._ledger.select(selection, limit + 1)
        shown, links, now = rows[:limit], self._links(), self._clock.now()
        seen = self._ledger.heartbeats()
        return _answer(
            {
                "tasks": [
                    documents.summary(
                        row, links, now=now, retention=self._retention, heartbeat_at=seen.get(row.worker or "")
                    )
                    for row in shown
                ],
                "next_page_token": documents.page_token(shown[-1]) if len(rows) > limit else None,
            },
            200,
        )

    def _selection(self, args: MultiDict[str, str]) -> tuple[Selection, int]:
        given = args.to_dict()
        errors = [FieldError(name, "must be given at most once") for name in given if len(args.getlist(name)) > 1]
        errors += [
            FieldError(name, "is not a known filter")
            for name in given
            if name not in _FILTERS and not name.startswith("label.")
        ]
        labels = [(name.removeprefix("label."), value) for name, value in given.items() if name.startswith("label.")]
        if len(labels) > 1:
            errors.append(FieldError("label", "must be given at most once"))
        if given.get("state", "queued") not in STATES:
            errors.append(FieldError("state", f"must be one of {', '.join(STATES)}"))
        if given.get("kind", "call") not in ("call", "callback"):
            errors.append(FieldError("kind", "must be call or callback"))
        limit = given.get("limit", "50")
        if not re.fullmatch(r"[0-9]{1,3}", limit) or not 1 <= int(limit) <= 200:
            errors.append(FieldError("limit", "must be a number from 1 to 200"))
        before = _parsed(given, "page_token", documents.place_of, "must be a next_page_token of this list", errors)
        since = _parsed(given, "since", self._since, "must be an RFC 3339 time or a duration", errors)
        if errors:
            raise border.refusal(errors)
        names = ("state", "queue", "rule", "reason", "version")
        principal = _principal()
        return Selection(
            kind=given.get("kind", "call"),
            caller=None if principal.is_operator else principal.name,
            since=since,
            before=before,
            label=labels[0] if labels else None,
            **{name: given.get(name) for name in names},
        ), int(limit)

    def _since(self, text: str) -> float:
        """A time, or a duration before now."""
        try:
            return self._clock.now() - parse_duration(text)
        except ValueError:
            return parse_time(text)

    def dispatch(self) -> Response:
        request.max_content_length = MAX_DISPATCH
        dispatch: Dispatch = request.environ[DISPATCH]
        try:
            answer = self._relay.dispatch(dispatch, request.get_data())
        except (Unavailable, EnqueueFailed) as exc:
            self._journal.deferred(dispatch, reason="unavailable", detail=str(exc))
            return _answer({"state": None, "reason": "deferred"}, 500)
        row = answer.row
        seen = {"task_id": row.task_id, "attempt": row.attempt, "state": row.state} if row else {}
        return _answer(seen | {"reason": answer.reason or (row.reason if row else None)}, answer.status_code)

    def ready(self) -> Response:
        ready = self._is_ready()
        return _answer({"status": "ready" if ready else "unavailable"}, 200 if ready else 503)

    def _links(self) -> Links:
        origin = self._origin()
        return Links(origin, self._project, f"{origin}/console" if self._has_console else None)

    def _on_error(self, error: RelayError) -> Any:
        status = problems.status_of(error)
        if request.path.startswith("/v1/tasks") and request.method == "POST":
            self._say_rejected(error)
            if status < 500:
                tracing.refuse()
        return problems.problem(status, problems.detail_of(error), problems.fields_of(error))

    def _say_rejected(self, error: RelayError) -> None:
        reason = "invalid" if isinstance(error, InvalidCall) else "unavailable"
        self._journal.enqueue_rejected(reason=reason, detail=str(error)[:1000], principal=_principal().name)


def _on_http_error(error: HTTPException) -> Any:
    answer = problems.problem(error.code or 500, error.description or error.name)
    answer.headers.extend((name, value) for name, value in error.get_headers() if name == "Allow")
    return answer


def _on_surprise(error: Exception) -> Any:
    _logger.error("a request could not be answered", exc_info=error)
    return problems.problem(500, "the relay met an error of its own; it is in the log")


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


def _json_body() -> Any:
    if request.mimetype != "application/json":
        raise InvalidCall("the content type must be application/json", status=415)
    too_large = InvalidCall(f"the request must take less than {MAX_REQUEST} bytes", status=413)
    try:
        body = request.get_data()
    except RequestEntityTooLarge:
        raise too_large from None
    if len(body) >= MAX_REQUEST:
        raise too_large  # where the length is not announced the body is cut there, without a word
    try:
        return strict_json.loads(body)
    except strict_json.NotJson as exc:
        raise InvalidCall(str(exc), status=400) from None


def _parsed(
    given: Mapping[str, str], name: str, parse: Callable[[str], T], rule: str, errors: list[FieldError]
) -> T | None:
    if name not in given:
        return None
    try:
        return parse(given[name])
    except (ValueError, TypeError):
        errors.append(FieldError(name, rule))
        return None


def _answer(document: Any, status: int) -> Response:
    response = Response(json.dumps(document), status, content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response
