"""Admission of a caller's request: every rule that it breaks, or the call to make."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from traced_relay.cloud_tasks.client import MAX_DEADLINE_HTTP
from traced_relay.errors import FieldError, InvalidCall
from traced_relay.formats import strict_json, validation
from traced_relay.formats.durations import format_duration
from traced_relay.relay.policy import OWN_URL, UNSIGNED
from traced_relay.tasks import enqueue_request, header_policy, retry
from traced_relay.tasks.call import SCHEDULE_AHEAD, Call, RetryPolicy, is_idempotent, split_target
from traced_relay.tasks.enqueue_request import EnqueueRequest
from traced_relay.tasks.ids import derived_id

if TYPE_CHECKING:
    from traced_relay.downstream.rules import Downstream
    from traced_relay.relay.policy import Decision, Policy, Principal
    from traced_relay.runtime.clock import Clock

DEFAULT_TIMEOUT = 600.0
MAX_URL_DIRECT = 2083
_PATH = "; if its rule has a path, the path must start with that, and no server may read a . or .. segment in it"
_UNCHANGED_BY_CLOUD_TASKS = re.compile(r"(?!([^?]*/)(\.|%2e){1,2}(/|\?|$))[a-z0-9._~:/?@!$&'()*+,;=%-]*", re.IGNORECASE)
_WITH_BODY = ("POST", "PUT", "PATCH")


class Admitted(Struct, frozen=True):
    """A request that breaks no rule: the *call* to make *at* a time, None for now."""

    is_direct: bool
    queue: str
    rule: Downstream
    call: Call
    at: float | None
    task_id: str
    fingerprint: str  # hash of the request, to recognise another one with the same Idempotency-Key; empty without a key


@dataclass(frozen=True)
class Admission:
    policy: Policy
    clock: Clock

    def admit(self, document: Any, principal: Principal, key: str | None) -> Admitted:
        """The call that *document* asks for; InvalidCall with every rule that it breaks."""
        document = enqueue_request.without_nulls(EnqueueRequest, document)
        request = enqueue_request.enqueue_request(document)
        errors: list[FieldError] = []
        queue = self.policy.queues[0] if request.queue is None else request.queue
        if queue not in self.policy.queues or not principal.may_use_queue(queue):
            errors.append(FieldError("queue", "must be a queue of relay.yaml that you may use"))
        decision = self.policy.decide_call(request.url)
        rule = decision.rule
        if rule is None or not principal.may_call(rule.name):
            errors.append(FieldError("url", _url_error(decision)))
        if request.callback is not None:
            receiver = self.policy.decide_callback(request.callback.url)
            if receiver.rule is None:
                errors.append(FieldError("callback.url", _callback_error(receiver)))
        at = self._at(request, errors)
        timeout = self._timeout(request, errors)
        retry_policy = self._retry(request, errors)
        if request.route == "direct":
            errors += _direct_errors(request)
        if errors or rule is None:
            raise validation.invalid_call(errors)
        body, content_type = request.content()
        call = Call(
            url=request.url,
            method=request.method,
            headers=header_policy.with_content_type(request.headers, content_type),
            body=body,
            timeout=timeout,
            retry=retry_policy,
            idempotent=is_idempotent(request.method, request.idempotent),
            labels=request.labels,
            callback=request.callback,
        )
        task_id = secrets.token_hex(16) if key is None else derived_id(principal.name, key)
        fingerprint = "" if key is None else hashlib.sha256(strict_json.canonical(document)).hexdigest()
        return Admitted(request.route == "direct", queue, rule, call, at, task_id, fingerprint)

    def _at(self, request: EnqueueRequest, errors: list[FieldError]) -> float | None:
        """When the first attempt is due; None for now and for the past."""
        now = self.clock.now()
        at = now + request.delay if request.delay is not None else request.schedule_time
        if at is None or at <= now:
            return None
        if at > now + SCHEDULE_AHEAD:
            errors.append(FieldError("schedule_time", "must be at most 30 days ahead"))
        return at

    def _timeout(self, request: EnqueueRequest, errors: list[FieldError]) -> float:
        most = self.policy.max_timeout
        if request.route == "direct":
            most = min(most, MAX_DEADLINE_HTTP)
        timeout = request.timeout if request.timeout is not None else min(DEFAULT_TIMEOUT, most)
        if timeout > most:
            message = f"must be at most {format_duration(most)}, got {format_duration(timeout)}"
            errors.append(FieldError("timeout", message))
        return timeout

    def _retry(self, request: EnqueueRequest, errors: list[FieldError]) -> RetryPolicy:
        """The caller's policy, completed from the operator's."""
        if request.retry is None:
            return self.policy.retry
        given = request.retry.model_dump(include=request.retry.model_fields_set)
        try:
            wanted = validation.read(RetryPolicy, self.policy.retry.model_dump() | given, "retry.")
        except InvalidCall as exc:
            errors.extend(exc.errors)
            return self.policy.retry
        broken = retry.broken_rule(wanted)
        if broken is not None:
            errors.append(FieldError(f"retry.{broken.field}", broken.message))
        return wanted


def _url_error(decision: Decision) -> str:
    """The same error for a rule that the caller may not use and for none, so that rules stay private."""
    if decision.reason == OWN_URL:
        return "must not be the relay's own"
    return f"must match a downstream of relay.yaml that you may call{_PATH}"


def _callback_error(decision: Decision) -> str:
    if decision.reason == OWN_URL:
        return "must not be the relay's own"
    if decision.reason == UNSIGNED:
        return "must match a receiver of relay.yaml that has a secret to sign with"
    return f"must match a receiver of relay.yaml{_PATH}"


def _direct_errors(request: EnqueueRequest) -> list[FieldError]:
    errors = [
        FieldError(name, "must not be given with route direct: Cloud Tasks itself makes the call")
        for name in ("retry", "callback", "idempotent")
        if name in request.model_fields_set
    ]
    if request.method not in _WITH_BODY and {"body", "body_base64"} & request.model_fields_set:
        errors.append(FieldError("body", f"must not be given with route direct and method {request.method}"))
    if not _UNCHANGED_BY_CLOUD_TASKS.fullmatch(split_target(request.url)[1]):
        errors.append(
            FieldError(
                "url",
                'must have no dot segments with route direct, and none of "<>[\\]^`{|}: Cloud Tasks may rewrite them',
            )
        )
    if len(request.url) > MAX_URL_DIRECT:
        errors.append(FieldError("url", f"must take at most {MAX_URL_DIRECT} characters with route direct"))
    return errors
