"""A caller's request becomes a row in the ledger, then a task in the queue, then a receipt."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import get_current_span

from traced_relay.cloud_tasks.client import MAX_DEADLINE_HTTP, DirectCall
from traced_relay.errors import EnqueueFailed, FieldError, InvalidCall, Unavailable
from traced_relay.formats import strict_json, validation
from traced_relay.formats.durations import format_duration, format_time
from traced_relay.tasks import enqueue_request, retry
from traced_relay.tasks.call import SCHEDULE_AHEAD, Call, RetryPolicy, is_idempotent, split_target
from traced_relay.tasks.enqueue_request import EnqueueRequest
from traced_relay.tasks.ids import derived_id
from traced_relay.tasks.row import ATTEMPTS_KEPT, Row
from traced_relay.tracing import instrumentation, propagation, spans

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Tracer

    from traced_relay.cloud_tasks.client import CloudTasks
    from traced_relay.downstream.rules import Downstream
    from traced_relay.ledger.protocol import Ledger
    from traced_relay.relay.policy import Policy, Principal
    from traced_relay.relay.task_log import TaskLog
    from traced_relay.runtime.clock import Clock
    from traced_relay.tasks.status_document import Links

DEFAULT_TIMEOUT = 600.0
MAX_URL_DIRECT = 2083
_UNCLEAR = "; if its rule has a path, the path must start with that, and no server may read a . or .. segment in it"
_logger = logging.getLogger(__name__)
_SENT_AS_IT_IS = re.compile(r"(?!([^?]*/)(\.|%2e){1,2}(/|\?|$))[a-z0-9._~:/?@!$&'()*+,;=%-]*", re.IGNORECASE)
_WITH_BODY = ("POST", "PUT", "PATCH")
_REMEMBERED = {"queue", "fingerprint", "carrier", "trace_id", "span_id", "sampled", "created_at", "schedule_time"}


@dataclass(frozen=True)
class Receipt:
    """What a caller gets for a call; *schedule_time* in seconds since the epoch."""

    task_id: str
    task_name: str
    queue: str
    state: str
    trace_id: str
    schedule_time: float
    has_status: bool = True


@dataclass(frozen=True)
class _Plan:
    """A request that keeps all rules, and how it will be made."""

    request: EnqueueRequest
    queue: str
    rule: Downstream
    call: Call
    at: float | None
    task_id: str
    fingerprint: str


class Enqueuer:
    def __init__(
        self,
        *,
        ledger: Ledger,
        cloud_tasks: CloudTasks,
        task_log: TaskLog,
        tracer: Tracer,
        clock: Clock,
        policy: Policy,
        direct_account: str,
        origin: Callable[[], str],
        new_id: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._ledger = ledger
        self._cloud_tasks = cloud_tasks
        self._task_log = task_log
        self._tracer = tracer
        self._clock = clock
        self._policy = policy
        self._direct_account = direct_account
        self._origin = origin
        self._new_id = new_id

    def enqueue(self, document: Any, principal: Principal, key: str | None = None) -> Receipt:
        """
        Take on the call that *document* asks for.

        The same *principal*, *key* and document give the same task. InvalidCall,
        Unavailable or EnqueueFailed mean that nothing was taken on, unless the
        ledger went away before it could be taken back; with a *key* a task may
        still come of it, the very one that asking again gives.
        """
        document = enqueue_request.without_nulls(EnqueueRequest, document)
        plan = self._plan(enqueue_request.enqueue_request(document), document, principal, key)
        if plan.request.route == "direct":
            return self._enqueue_direct(plan, principal, key)
        if key is not None and (row := self._ledger.get(plan.task_id)) is not None:
            return self._repeated(row, plan)
        task_name = self._cloud_tasks.task_name(plan.queue, f"{plan.task_id}-1")
        with spans.sending(self._tracer, plan.queue, plan.task_id, task_name=task_name):
            row = self._new_row(plan, principal)
            while not self._insert(row, can_be_asked_again=key is not None):
                first = self._ledger.get(row.task_id)
                if first is not None:  # None: that row expired in between
                    instrumentation.discard_request_span()
                    return self._repeated(first, plan)
            row = self._ensure_task(row, can_be_asked_again=key is not None)
        return self._receipt(row)

    def _insert(self, row: Row, *, can_be_asked_again: bool) -> bool:
        try:
            return self._ledger.insert(row)
        except Unavailable:
            if not can_be_asked_again:
                with suppress(Unavailable):
                    self._ledger.remove(row)  # it may have been written, and only the answer lost
            raise

    def _new_row(self, plan: _Plan, principal: Principal) -> Row:
        headers = propagation.task_headers()
        span = spans.trace_ref(get_current_span())
        now = self._clock.now()
        return Row(
            task_id=plan.task_id,
            queue=plan.queue,
            call=plan.call,
            rule=plan.rule.name,
            caller=principal.name,
            fingerprint=plan.fingerprint,
            origin=self._origin(),
            carrier={name: headers[name] for name in ("traceparent", "tracestate") if name in headers},
            trace_id=span.trace_id,
            span_id=span.span_id,
            sampled=span.sampled,
            created_at=now,
            schedule_time=plan.at or now,
            next_attempt_at=plan.at or now,
        )

    def _ensure_task(self, row: Row, *, can_be_asked_again: bool) -> Row:
        """
        Create the first task of *row*, unless a request with the same key did; return the row as it is then.

        If that fails the row is removed, so that the caller's call is not made; with a
        key it stays, for the next request with that key.
        """
        try:
            while _lacks_task(row):
                if self._create(row):
                    return self._created(row)
                current = self._ledger.get(row.task_id)
                if current is None or not _lacks_task(current):
                    return current or row  # another request created the task, and it may have ended already
                if self._cloud_tasks.exists(self._task_name(current)):
                    return self._created(current)
                row = self._renamed(current)
        except (Unavailable, EnqueueFailed):
            if can_be_asked_again or self._ledger.remove(row):
                raise
            # The task was made all the same, and is being worked on.
        return row

    def _created(self, row: Row) -> Row:
        """Record the enqueueing first and note it then: a row that is noted needs no other record."""
        self._task_log.enqueued(row, self._task_name(row))
        try:
            self._ledger.note(row.task_id, row.awaited)
        except Unavailable as exc:
            _logger.warning("that the task of %s is made is left to the sweep to note: %s", row.task_id, exc)
        return row

    def _create(self, row: Row) -> bool:
        return self._cloud_tasks.create(row, at=_due(row), headers=_trace_headers(row))

    def _renamed(self, row: Row) -> Row:
        """
        Await the next task name: Cloud Tasks reserves the name of a deleted task for days; a key may outlive its row.

        If another request changes the row first, the unchanged *row* is returned, and what it is now decides.
        """
        renamed = row.model_copy(update={"awaited": row.awaited + 1, "revision": row.revision + 1})
        return renamed if self._ledger.replace(renamed) else row

    def _task_name(self, row: Row) -> str:
        """The name of the first task: its number is that of the first attempt, 1 unless names were reserved."""
        first = row.awaited if row.attempt == 0 else 1
        if 0 < len(row.attempts) < ATTEMPTS_KEPT:
            first = row.attempts[0].attempt
        return self._cloud_tasks.task_name(row.queue, f"{row.task_id}-{first}")

    def _repeated(self, row: Row, plan: _Plan) -> Receipt:
        if row.fingerprint != plan.fingerprint:
            raise _key_used_before()
        return self._receipt(self._ensure_task(row, can_be_asked_again=True))

    def _receipt(self, row: Row) -> Receipt:
        return Receipt(row.task_id, self._task_name(row), row.queue, row.state, row.trace_id, row.schedule_time)

    def _enqueue_direct(self, plan: _Plan, principal: Principal, key: str | None) -> Receipt:
        """Let Cloud Tasks make the call itself: its delivery, its retries, and no row; only a key is remembered."""
        task_name = self._cloud_tasks.task_name(plan.queue, f"{plan.task_id}-1")
        with spans.sending(self._tracer, plan.queue, plan.task_id, task_name=task_name):
            own = self._new_row(plan, principal)
            row = own if key is None else self._remembered(own)
            call = row.call
            is_new = self._cloud_tasks.create_direct(
                queue=row.queue,
                task_id=row.task_id,
                at=_due(row),
                call=DirectCall(
                    url=call.url,
                    method=call.method,
                    headers={
                        **call.headers,
                        **(_trace_headers(row) if plan.rule.trace == "w3c" else {}),
                        "idempotency-key": row.task_id,
                    },
                    body=call.body,
                    timeout=call.timeout,
                    service_account=self._direct_account,
                    audience=plan.rule.audience_of(call.url) if plan.rule.auth == "id_token" else None,
                ),
            )
        if is_new or row is own:
            self._task_log.enqueued(row, self._task_name(row), route="direct")
        return replace(self._receipt(row), has_status=False)

    def _remembered(self, own: Row) -> Row:
        """The row of the request that used the key first: *own*, or one with another trace and another time."""
        text = own.model_dump_json(include=_REMEMBERED)
        first = self._ledger.remember_key(own.task_id, text)
        if first == text:
            return own
        instrumentation.discard_request_span()
        row = own.model_copy(update=json.loads(first))
        if row.fingerprint != own.fingerprint:
            raise _key_used_before()
        return row

    def _plan(self, request: EnqueueRequest, document: Any, principal: Principal, key: str | None) -> _Plan:
        errors: list[FieldError] = []
        queue = self._policy.queues[0] if request.queue is None else request.queue
        if queue not in self._policy.queues or not principal.may_use_queue(queue):
            errors.append(FieldError("queue", "must be a queue of relay.yaml that you may use"))
        rule = self._policy.rule_for(request.url)
        if rule is None or not principal.may_call(rule.name):
            errors.append(FieldError("url", f"must match a downstream of relay.yaml that you may call{_UNCLEAR}"))
        if request.callback is not None and self._policy.receiver_for(request.callback.url) is None:
            errors.append(
                FieldError(
                    "callback.url",
                    f"must match a receiver of relay.yaml, and one whose callbacks can be signed{_UNCLEAR}",
                )
            )
        at = self._at(request, errors)
        timeout = self._timeout(request, errors)
        policy = self._retry(request, errors)
        if request.route == "direct":
            errors += _broken_by_direct(request)
        if errors or rule is None:
            raise validation.invalid_call(errors)
        body, content_type = request.content()
        call = Call(
            url=request.url,
            method=request.method,
            headers=request.headers_for(content_type),
            body=body,
            timeout=timeout,
            retry=policy,
            idempotent=is_idempotent(request.method, request.idempotent),
            labels=request.labels,
            callback=request.callback,
        )
        task_id = self._new_id() if key is None else derived_id(principal.name, key, request.route)
        fingerprint = hashlib.sha256(strict_json.canonical(document)).hexdigest()
        return _Plan(request, queue, rule, call, at, task_id, fingerprint)

    def _at(self, request: EnqueueRequest, errors: list[FieldError]) -> float | None:
        """When the first attempt is due; None is now, as is the past."""
        now = self._clock.now()
        at = now + request.delay if request.delay is not None else request.schedule_time
        if at is None or at <= now:
            return None
        if at > now + SCHEDULE_AHEAD:
            errors.append(FieldError("schedule_time", "must be at most 30 days ahead"))
        return at

    def _timeout(self, request: EnqueueRequest, errors: list[FieldError]) -> float:
        most = self._policy.max_timeout
        if request.route == "direct":
            most = min(most, MAX_DEADLINE_HTTP)
        timeout = request.timeout if request.timeout is not None else min(DEFAULT_TIMEOUT, most)
        if timeout > most:
            message = f"must be at most {format_duration(most)}, got {format_duration(timeout)}"
            errors.append(FieldError("timeout", message))
        return timeout

    def _retry(self, request: EnqueueRequest, errors: list[FieldError]) -> RetryPolicy:
        """The caller's policy, what it leaves out filled from the operator's."""
        if request.retry is None:
            return self._policy.retry
        given = request.retry.model_dump(include=request.retry.model_fields_set)
        try:
            wanted = validation.read(RetryPolicy, self._policy.retry.model_dump() | given, "retry.")
        except InvalidCall as exc:
            errors.extend(exc.errors)
            return self._policy.retry
        broken = retry.broken_rule(wanted)
        if broken is not None:
            errors.append(FieldError(f"retry.{broken.field}", broken.message))
        return wanted


def _due(row: Row) -> float | None:
    """When the first task is due; None is now."""
    return row.schedule_time if row.schedule_time > row.created_at else None


def _trace_headers(row: Row) -> dict[str, str]:
    return propagation.task_headers(propagation.parent_context(row.carrier))


def _lacks_task(row: Row) -> bool:
    """Whether no request is known to have created the first task of *row*."""
    return row.state == "queued" and row.attempt == 0 and row.noted_attempt < row.awaited


def _broken_by_direct(request: EnqueueRequest) -> list[FieldError]:
    errors = [
        FieldError(name, "must not be given with route direct: Cloud Tasks itself makes the call")
        for name in ("retry", "callback", "idempotent")
        if name in request.model_fields_set
    ]
    if request.method not in _WITH_BODY and {"body", "body_base64"} & request.model_fields_set:
        errors.append(FieldError("body", f"must not be given with route direct and method {request.method}"))
    if not _SENT_AS_IT_IS.fullmatch(split_target(request.url)[1]):
        errors.append(
            FieldError(
                "url",
                'must have no dot segments with route direct, and none of "<>[\\]^`{|}: Cloud Tasks may rewrite them',
            )
        )
    if len(request.url) > MAX_URL_DIRECT:
        errors.append(FieldError("url", f"must take at most {MAX_URL_DIRECT} characters with route direct"))
    return errors


def _key_used_before() -> InvalidCall:
    return validation.invalid_call([FieldError("Idempotency-Key", "was used before with another body")])


def receipt(made: Receipt, links: Links) -> dict[str, Any]:
    return {
        "task_id": made.task_id,
        "task_name": made.task_name,
        "queue": made.queue,
        "state": made.state,
        "trace_id": made.trace_id,
        "schedule_time": format_time(made.schedule_time),
        "links": links.of(made.task_id, made.trace_id) | ({} if made.has_status else {"status": None}),
    }
