"""A dispatch becomes an attempt: claim, send, judge, record, then the next task. Cloud Tasks is answered last."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace
from opentelemetry.trace import get_current_span

from traced_relay.cloud_tasks.delivery import BareTask, Delivery, read_task
from traced_relay.downstream import webhook_signature
from traced_relay.downstream.connections import has_room
from traced_relay.downstream.sender import Exchange
from traced_relay.errors import IdentityFailed, InvalidCall, without_values
from traced_relay.relay.lease import LEASE
from traced_relay.tasks import state_machine
from traced_relay.tasks.ids import adopted_task_id
from traced_relay.tasks.row import new_row
from traced_relay.tasks.state_machine import AGAIN, DONE, HELD, Dispatched, Holder, Step
from traced_relay.tracing import instrumentation, propagation, spans

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from opentelemetry.trace import Span, Tracer

    from traced_relay.cloud_tasks.client import CloudTasks
    from traced_relay.cloud_tasks.delivery import Dispatch
    from traced_relay.downstream.sender import Sender
    from traced_relay.ledger.protocol import Ledger
    from traced_relay.relay.commit import StepApplier
    from traced_relay.relay.policy import Policy
    from traced_relay.relay.running_calls import RunningCalls
    from traced_relay.relay.task_log import TaskLog
    from traced_relay.runtime.clock import Clock
    from traced_relay.runtime.watchdog import Deadline
    from traced_relay.tasks.row import Row
    from traced_relay.tasks.state_machine import WorkerIdentity
    from traced_relay.tracing.instrumentation import ClientSpans
    from traced_relay.tracing.propagation import Arrival

MAX_CHANGES = 3
IN_PROGRESS = "already in progress in this process, or the process is stopping"
TRACE_ENDS_AFTER = 7 * 86_400.0  # Cloud Trace refuses spans that are older than 14 days
_ON_SPANS = ("verdict", "reason", "blame", "retry_delay_ms", "status_code")


class DispatchResult(Struct, frozen=True):
    """The response to Cloud Tasks, and the task it is about, if known."""

    status_code: int
    row: Row | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class DispatchHandler:
    ledger: Ledger
    cloud_tasks: CloudTasks
    sender: Sender
    task_log: TaskLog
    tracer: Tracer
    client_spans: ClientSpans
    clock: Clock
    random: Callable[[], float]
    policy: Policy
    worker: WorkerIdentity
    running_calls: RunningCalls
    step_applier: StepApplier
    signing_keys: Callable[[str], tuple[bytes, ...]]
    origin: Callable[[], str]

    def dispatch(self, dispatch: Dispatch, body: bytes) -> DispatchResult:
        """Handle one delivery; after Unavailable or EnqueueFailed Cloud Tasks delivers it again."""
        refusal = self.running_calls.refusal() or (None if has_room() else "capacity")
        if refusal is not None:
            return self._defer(dispatch, refusal, "this process accepts no further call")
        for _ in range(MAX_CHANGES):
            delivery, row = self._read(dispatch, body)
            if row is None:
                return DispatchResult(DONE, reason="rejected")
            result = self._run(row, delivery)
            if result is not None:
                return result
        return self._defer(dispatch, self.running_calls.refusal() or HELD, f"its row changed {MAX_CHANGES} times", row)

    def _run(self, row: Row, delivery: Delivery) -> DispatchResult | None:
        """Claim, send, judge, record, then the next task; None if *row* was changed first and has to be read again."""
        is_old = row.trace_age(self.clock.now()) > TRACE_ENDS_AFTER
        arrival = propagation.arrival(row.trace, is_old=is_old)
        if arrival.is_rewritten and delivery.task_name != row.adopted_task_name:  # a bare task carries no context
            spans.set_rewritten(get_current_span())
            delivery = replace(delivery, trace_rewritten=True)
        step = self._arrive(row, delivery)
        if not step.start_attempt or step.row is None:
            after = self.step_applier.apply(step, row, delivery=delivery)
            return None if after is None else DispatchResult(step.queue_status, after)
        if is_old:
            instrumentation.discard_current_span()  # the dispatch's own span, which is in the old trace
        with self._process_span(step.row, delivery, arrival) as span:
            claimed = step.row.with_last_attempt(span_id=spans.trace_ref(span).span_id)
            with self.running_calls.hold(claimed, delivery) as deadline:
                if deadline is None:
                    instrumentation.discard_current_span()  # the delivery in progress has a span of its own
                    return self._defer(delivery.dispatch, self.running_calls.refusal() or HELD, IN_PROGRESS, row)
                if self.step_applier.commit(replace(step, row=claimed), row, delivery=delivery) is None:
                    instrumentation.discard_current_span()
                    return None
                self.step_applier.note_first_task(claimed)  # this delivery proves that it exists
                spans.started(self.tracer, row.queue, arrival.send, at=self.clock.now())
                exchange = self._send(claimed, delivery, deadline)
                result, after = exchange.ending, None
                if result.reason == "interrupted" and deadline.is_aborted:
                    spans.set_error(span, "interrupted")
                    return DispatchResult(AGAIN, claimed, "interrupted")
                if result.reason != "cancelled":
                    now = self.clock.now()
                    step = state_machine.end(claimed, result, response=exchange.response, now=now, random=self.random)
                    after = self.step_applier.commit(
                        step, claimed, delivery=delivery, exchange=exchange, patience=LEASE
                    )
                if after is None:  # cancelled, or judged as lost, during the call: its result counts no more
                    spans.set_verdict(span, verdict="cancelled", reason="cancelled")
                    return None
                spans.set_verdict(span, **{name: getattr(after.attempts[-1], name) for name in _ON_SPANS})
                self.step_applier.follow(step, after)
                return DispatchResult(step.queue_status, after)

    def _process_span(self, row: Row, delivery: Delivery, arrival: Arrival) -> AbstractContextManager[Span]:
        return spans.processing(
            self.tracer,
            row.queue,
            row.task_id,
            task_name=delivery.task_name,
            attempt=row.attempt,
            task_retry_count=delivery.dispatch.task_retry_count,
            queue_delay_ms=delivery.queue_delay_ms,
            context=arrival.parent,
            links=arrival.links,
        )

    def _defer(self, dispatch: Dispatch, reason: str, detail: str, row: Row | None = None) -> DispatchResult:
        self.task_log.deferred(dispatch, reason=reason, detail=detail, row=row)
        return DispatchResult(AGAIN, row, reason)

    def _read(self, dispatch: Dispatch, body: bytes) -> tuple[Delivery, Row | None]:
        """The delivery and its row; None, with a record, if delivering it again would not help."""
        task_name = self.cloud_tasks.task_name(dispatch.queue, dispatch.task)
        delay = dispatch.queue_delay_ms(self.clock.now())
        delivery = Delivery(dispatch, task_name, 1, delay, propagation.rewritten())
        try:
            task = read_task(body)
            if isinstance(task, BareTask):
                return delivery, self._adopt(task, delivery)
        except InvalidCall as exc:
            self.task_log.dispatch_rejected(dispatch, reason="unreadable", detail=without_values(exc))
            return delivery, None
        row = self.ledger.get(task.task_id)
        if row is None:
            detail = f"the ledger has no task {task.task_id}"
            self.task_log.dispatch_rejected(dispatch, reason="unknown_task", detail=detail)
        return replace(delivery, number=task.attempt), row

    def _adopt(self, bare: BareTask, delivery: Delivery) -> Row | None:
        """The row of a task that another Cloud Tasks client created; its first dispatch inserts it."""
        task_id = adopted_task_id(delivery.task_name)
        known = self.ledger.get(task_id)
        if known is not None:
            return known
        call = bare.call(retry=self.policy.retry, max_timeout=self.policy.max_timeout)
        rule = self.policy.decide_call(call.url).rule
        now = self.clock.now()
        row = new_row(
            task_id=task_id,
            queue=delivery.dispatch.queue,
            call=call,
            rule=rule.name if rule else None,
            caller="adopted",
            origin=self.origin(),
            adopted_task_name=delivery.task_name,
            trace=propagation.trace_context(),
            now=now,
            schedule_time=delivery.dispatch.task_eta or now,
            next_attempt_at=now,
            noted_attempt=1,
        )
        return row if self.ledger.insert(row) else self.ledger.get(task_id)

    def _arrive(self, row: Row, delivery: Delivery) -> Step:
        dispatched = Dispatched(delivery.number, self.worker, delivery.task_name, delivery.queue_delay_ms)
        holder = self.running_calls.holder_of(row) if row.state == "running" else Holder.LOST
        return state_machine.arrive(row, dispatched, now=self.clock.now(), holder=holder, random=self.random)

    def _send(self, row: Row, delivery: Delivery, deadline: Deadline) -> Exchange:
        decision = self.policy.decide(row)
        rule = decision.rule
        propagate = rule is not None and rule.trace == "w3c"
        is_call = row.kind == "call"
        try:
            headers = self._headers(row, decision.secret)
        except IdentityFailed as exc:
            return Exchange.unsent("auth_unavailable", str(exc))
        exchange = self.sender.send(
            row.call,
            rule,
            headers,
            deadline,
            head_decides=not is_call,
            client_span=partial(self.client_spans.of, attempt=row.attempt, propagate=propagate, full_url=is_call),
        )
        if exchange.ending.reason == "denied":
            self.task_log.denied(row, delivery, exchange.detail or decision.reason or "")
        return exchange

    def _headers(self, row: Row, secret: str | None) -> Mapping[str, str]:
        """The headers that identify the task, the same in every attempt; a callback's are signed."""
        if row.kind == "call":
            return {"idempotency-key": row.task_id}
        if secret is None:
            return {}
        return webhook_signature.sign(self.signing_keys(secret), row.task_id, self.clock.now(), row.call.body)
