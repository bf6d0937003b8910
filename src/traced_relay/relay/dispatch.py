"""A dispatch becomes an attempt: claim, send, judge, record, then the next task. The queue is answered last."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from opentelemetry.trace import get_current_span

from traced_relay.cloud_tasks.delivery import BareTask, Delivery, read_task
from traced_relay.downstream import webhook_signature
from traced_relay.downstream.sender import Exchange, Timing
from traced_relay.errors import IdentityFailed, InvalidCall
from traced_relay.relay.commit import RowChanged
from traced_relay.relay.lease import LEASE
from traced_relay.relay.running_calls import AlreadyHeld
from traced_relay.tasks import state_machine
from traced_relay.tasks.ids import adopted_task_id
from traced_relay.tasks.retry import AttemptResult
from traced_relay.tasks.row import Row
from traced_relay.tasks.state_machine import AGAIN, DONE, HELD, Dispatched, Holder, Step
from traced_relay.tracing import instrumentation, propagation, spans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from opentelemetry.trace import Tracer

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
    from traced_relay.tasks.row import Attempt
    from traced_relay.tracing.propagation import SpanParent


CHANGES_MET = 3
TRACE_ENDS_AFTER = 7 * 86_400.0  # Cloud Trace refuses spans that are older than 14 days


class _Overtaken(RowChanged):
    """The call was made, and then cancelled or taken for lost: what it brought counts no more."""


@dataclass(frozen=True)
class WorkerIdentity:
    """This process: *id* is its alone, *version* and *instance* are the platform's words for it."""

    id: str
    version: str
    instance: str


@dataclass(frozen=True)
class DispatchResult:
    """What the queue gets, and the task it was about as far as it is known."""

    status_code: int
    row: Row | None = None
    reason: str | None = None


class Dispatcher:
    def __init__(
        self,
        *,
        ledger: Ledger,
        cloud_tasks: CloudTasks,
        sender: Sender,
        task_log: TaskLog,
        tracer: Tracer,
        clock: Clock,
        random: Callable[[], float],
        policy: Policy,
        worker: WorkerIdentity,
        running: RunningCalls,
        steps: StepApplier,
        signing_keys: Callable[[str], tuple[bytes, ...]],
        origin: Callable[[], str],
    ) -> None:
        self._ledger = ledger
        self._cloud_tasks = cloud_tasks
        self._sender = sender
        self._task_log = task_log
        self._tracer = tracer
        self._clock = clock
        self._random = random
        self._policy = policy
        self._worker = worker
        self._running = running
        self._steps = steps
        self._signing_keys = signing_keys
        self._origin = origin

    def dispatch(self, dispatch: Dispatch, body: bytes) -> DispatchResult:
        """Work one delivery; Unavailable and EnqueueFailed leave it to be delivered again."""
        refusal = self._running.refusal() or (None if self._sender.has_room() else "capacity")
        if refusal is not None:
            self._task_log.deferred(dispatch, reason=refusal, detail="no further call is taken on here")
            return DispatchResult(AGAIN, reason=refusal)
        for _ in range(CHANGES_MET):
            delivery, row = self._read(dispatch, body)
            if row is None:
                return DispatchResult(DONE, reason="rejected")
            try:
                return self._work(row, delivery)
            except AlreadyHeld:
                break
            except RowChanged:
                continue  # what the row is now decides
        reason = self._running.refusal() or HELD
        self._task_log.deferred(
            dispatch, reason=reason, detail="another delivery works on it, or none any more", row=row
        )
        return DispatchResult(AGAIN, row, reason)

    def _work(self, row: Row, delivery: Delivery) -> DispatchResult:
        step = self._arrive(row, delivery)
        if not step.start_attempt or step.row is None:
            after = self._steps.commit(step, row, delivery=delivery)
            self._steps.follow(step, after)
            return DispatchResult(step.answer, after)
        place = self._place_of(row)
        with self._processing(step.row, delivery, place) as running, self._running.hold(running, delivery) as deadline:
            self._steps.commit(replace(step, row=running), row, delivery=delivery)
            spans.started(self._tracer, running.queue, place.mark, at=self._clock.now())
            exchange = self._send(running, delivery, deadline)
            if exchange.ending.reason == "interrupted" and deadline.is_aborted:
                spans.interrupted(get_current_span())
                return DispatchResult(AGAIN, running, "interrupted")
            return self._finish(running, exchange, delivery)

    def _read(self, dispatch: Dispatch, body: bytes) -> tuple[Delivery, Row | None]:
        """The row the delivery is about; None, with a record, where a retry could not mend it."""
        task_name = self._cloud_tasks.task_name(dispatch.queue, dispatch.task)
        delay = dispatch.queue_delay_ms(self._clock.now())
        delivery = Delivery(dispatch, task_name, 1, delay, propagation.rewritten())
        try:
            task = read_task(body)
            if isinstance(task, BareTask):
                return delivery, self._adopt(task, delivery)
        except InvalidCall as exc:
            self._reject(delivery, "unreadable", exc.detail)
            return delivery, None
        row = self._ledger.get(task.task_id)
        if row is None:
            self._reject(delivery, "unknown_task", f"the ledger has no task {task.task_id}")
        elif not propagation.has_context(row.carrier):
            spans.came_rewritten(get_current_span())
            delivery = replace(delivery, trace_rewritten=True)
        return replace(delivery, number=task.attempt), row

    def _reject(self, delivery: Delivery, reason: str, detail: str) -> None:
        self._task_log.dispatch_rejected(delivery.dispatch, reason=reason, detail=detail)

    def _adopt(self, bare: BareTask, delivery: Delivery) -> Row | None:
        """The row of a task that somebody made by hand; its first dispatch writes it."""
        task_id = adopted_task_id(delivery.task_name)
        known = self._ledger.get(task_id)
        if known is not None:
            return known
        call = bare.call(retry=self._policy.retry, max_timeout=self._policy.max_timeout)
        rule = self._policy.rule_for(call.url)
        span = spans.trace_ref(get_current_span())
        headers = propagation.task_headers()
        now = self._clock.now()
        row = Row(
            task_id=task_id,
            queue=delivery.dispatch.queue,
            call=call,
            rule=rule.name if rule else None,
            caller="adopted",
            origin=self._origin(),
            adopted_task_name=delivery.task_name,
            carrier={name: headers[name] for name in ("traceparent", "tracestate") if name in headers},
            trace_id=span.trace_id,
            span_id=span.span_id,
            sampled=span.sampled,
            created_at=now,
            schedule_time=delivery.dispatch.task_eta or now,
            next_attempt_at=now,
            noted_attempt=1,
        )
        return row if self._ledger.insert(row) else self._ledger.get(task_id)

    def _arrive(self, row: Row, delivery: Delivery) -> Step:
        event = Dispatched(
            number=delivery.number,
            worker=self._worker.id,
            task_name=delivery.task_name,
            version=self._worker.version,
            instance=self._worker.instance,
            queue_delay_ms=delivery.queue_delay_ms,
        )
        holder = self._running.holder_of(row) if row.state == "running" else Holder.LOST
        return state_machine.arrive(row, event, now=self._clock.now(), holder=holder, random=self._random)

    def _place_of(self, row: Row) -> SpanParent:
        """Where in the row's trace, or after it, the attempt that begins now belongs."""
        is_old = row.trace_age(self._clock.now()) > TRACE_ENDS_AFTER
        place = propagation.span_parent(row.carrier, is_old=is_old)
        if is_old:
            instrumentation.discard_request_span()  # the dispatch's own span, which is in the old trace already
        return place

    @contextmanager
    def _processing(self, row: Row, delivery: Delivery, place: SpanParent) -> Iterator[Row]:
        """The `process` span, in the row's trace even where the task's headers were lost, and its id in the row."""
        with spans.processing(
            self._tracer,
            row.queue,
            row.task_id,
            task_name=delivery.task_name,
            attempt=row.attempt,
            task_retry_count=delivery.dispatch.task_retry_count,
            queue_delay_ms=delivery.queue_delay_ms,
            context=place.context,
            links=place.links,
        ) as span:
            begun = row.attempts[-1].model_copy(update={"span_id": spans.trace_ref(span).span_id})
            try:
                yield row.model_copy(update={"attempts": (*row.attempts[:-1], begun)})
            except _Overtaken:
                raise
            except (AlreadyHeld, RowChanged):
                instrumentation.discard_request_span()  # whoever works on it has a span of its own
                raise

    def _send(self, row: Row, delivery: Delivery, deadline: Deadline) -> Exchange:
        rule = self._policy.rule_of(row)
        propagate = rule is not None and rule.trace == "w3c"
        with instrumentation.calling(attempt=row.attempt, propagate=propagate, full_url=row.kind == "call"):
            try:
                headers = self._headers(row)
            except IdentityFailed as exc:
                return Exchange(AttemptResult(None, "auth_unavailable", was_sent=False), Timing(), detail=str(exc))
            exchange = self._sender.send(row.call, rule, headers, deadline, head_decides=row.kind == "callback")
        if exchange.ending.reason == "denied":
            self._task_log.denied(row, delivery, exchange.detail or "no rule of relay.yaml allows its URL")
        return exchange

    def _headers(self, row: Row) -> Mapping[str, str]:
        """What tells the other side which task this is, the same in every attempt; of a callback, signed."""
        if row.kind == "call":
            return {"idempotency-key": row.task_id}
        receiver = self._policy.receiver_for(row.call.url)
        if receiver is None or receiver.secret is None:
            return {}
        return webhook_signature.sign(
            self._signing_keys(receiver.secret), row.task_id, self._clock.now(), row.call.body
        )

    def _finish(self, row: Row, exchange: Exchange, delivery: Delivery) -> DispatchResult:
        if exchange.ending.reason == "cancelled":
            spans.judged(get_current_span(), verdict="cancelled", reason="cancelled")
            raise _Overtaken
        now = self._clock.now()
        step = state_machine.end(row, exchange.ending, response=exchange.response, now=now, random=self._random)
        try:
            after = self._steps.commit(step, row, delivery=delivery, exchange=exchange, patience=LEASE)
        except RowChanged:
            raise _Overtaken from None
        _judged(after.attempts[-1])
        self._steps.follow(step, after)
        return DispatchResult(step.answer, after)


def _judged(attempt: Attempt) -> None:
    spans.judged(
        get_current_span(),
        verdict=str(attempt.verdict),
        reason=attempt.reason,
        blame=attempt.blame,
        retry_delay_ms=attempt.retry_delay_ms,
        status_code=attempt.status_code,
    )
