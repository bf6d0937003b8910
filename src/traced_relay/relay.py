"""A dispatch becomes an attempt: claim, send, judge, record, then the next task. The queue is answered last."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

from opentelemetry.trace import get_current_span

from traced_relay import machine, tracing
from traced_relay.dispatch import Bare, adopted_task_id, read_task
from traced_relay.errors import InvalidCall
from traced_relay.machine import AGAIN, DONE, Dispatched, Step
from traced_relay.rows import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

    from traced_relay.clock import Clock
    from traced_relay.cloud_tasks import CloudTasks
    from traced_relay.dispatch import Dispatch
    from traced_relay.journal import Journal
    from traced_relay.ledger import SqliteLedger
    from traced_relay.policy import Policy
    from traced_relay.sender import Exchange, Sender


CHANGES_MET = 3


class _Changed(Exception):
    """Somebody else changed the row first; what it is now decides."""


@dataclass(frozen=True)
class Worker:
    """This process: *id* is its alone, *version* and *instance* are the platform's words for it."""

    id: str
    version: str
    instance: str


@dataclass(frozen=True)
class Answer:
    """What the queue gets, and the task it was about as far as it is known."""

    status_code: int
    row: Row | None = None
    reason: str | None = None


@dataclass(frozen=True)
class _Delivery:
    """A dispatch together with what was found out about it."""

    dispatch: Dispatch
    task_name: str
    number: int
    queue_delay_ms: int | None


class Relay:
    def __init__(
        self,
        *,
        ledger: SqliteLedger,
        cloud_tasks: CloudTasks,
        sender: Sender,
        journal: Journal,
        tracer: Tracer,
        clock: Clock,
        random: Callable[[], float],
        policy: Policy,
        worker: Worker,
    ) -> None:
        self._ledger = ledger
        self._cloud_tasks = cloud_tasks
        self._sender = sender
        self._journal = journal
        self._tracer = tracer
        self._clock = clock
        self._random = random
        self._policy = policy
        self._worker = worker
        self._running: Counter[tuple[str, int]] = Counter()
        self._lock = Lock()

    def dispatch(self, dispatch: Dispatch, body: bytes) -> Answer:
        """Work one delivery; Unavailable and EnqueueFailed leave it to be delivered again."""
        for _ in range(CHANGES_MET):
            delivery, row = self._read(dispatch, body)
            if row is None:
                return Answer(DONE, reason="rejected")
            with suppress(_Changed):
                return self._work(row, delivery)
        return Answer(AGAIN, reason="changed_meanwhile")

    def _work(self, row: Row, delivery: _Delivery) -> Answer:
        step = self._arrive(row, delivery)
        if not step.begins or step.row is None:
            return self._apply(step, row, delivery)
        with self._processing(step.row, delivery) as running, self._holding(running):
            self._apply(Step(row=running, says=step.says), row, delivery)
            exchange = self._send(running)
            return self._finish(running, exchange, delivery)

    def _read(self, dispatch: Dispatch, body: bytes) -> tuple[_Delivery, Row | None]:
        """The row the delivery is about; None, with a record, where a retry could not mend it."""
        task_name = self._cloud_tasks.task_name(dispatch.queue, dispatch.task)
        delay = dispatch.queue_delay_ms(self._clock.now())
        delivery = _Delivery(dispatch, task_name, 1, delay)
        try:
            task = read_task(body)
            if isinstance(task, Bare):
                return delivery, self._adopt(task, delivery)
        except InvalidCall as exc:
            self._reject(delivery, "unreadable", exc.detail)
            return delivery, None
        row = self._ledger.get(task.task_id)
        if row is None:
            self._reject(delivery, "unknown_task", f"the ledger has no task {task.task_id}")
        return _Delivery(dispatch, task_name, task.attempt, delay), row

    def _reject(self, delivery: _Delivery, reason: str, detail: str) -> None:
        self._journal.rejected(
            "dispatch.rejected",
            reason=reason,
            detail=detail,
            queue=delivery.dispatch.queue,
            task_name=delivery.task_name,
        )

    def _adopt(self, bare: Bare, delivery: _Delivery) -> Row | None:
        """The row of a task that somebody made by hand; its first dispatch writes it."""
        task_id = adopted_task_id(delivery.task_name)
        known = self._ledger.get(task_id)
        if known is not None:
            return known
        call = bare.call(retry=self._policy.retry, max_timeout=self._policy.max_timeout)
        rule = self._policy.rule_for(call.url)
        span = tracing.trace_ref(get_current_span())
        headers = tracing.task_headers()
        now = self._clock.now()
        row = Row(
            task_id=task_id,
            queue=delivery.dispatch.queue,
            call=call,
            rule=rule.name if rule else None,
            caller="adopted",
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

    def _arrive(self, row: Row, delivery: _Delivery) -> Step:
        event = Dispatched(
            number=delivery.number,
            worker=self._worker.id,
            task_name=delivery.task_name,
            version=self._worker.version,
            instance=self._worker.instance,
            queue_delay_ms=delivery.queue_delay_ms,
        )
        alive = row.state == "running" and self._is_held(row)
        return machine.arrive(row, event, now=self._clock.now(), holder_is_alive=alive, random=self._random)

    def _is_held(self, row: Row) -> bool:
        if row.worker == self._worker.id:
            return self._running[row.task_id, row.attempt] > 0
        return row.worker is not None and self._ledger.is_alive(row.worker)

    @contextmanager
    def _processing(self, row: Row, delivery: _Delivery) -> Iterator[Row]:
        """The `process` span, in the row's trace even where the task's headers were lost, and its id in the row."""
        with tracing.processing(
            self._tracer,
            row.queue,
            row.task_id,
            task_name=delivery.task_name,
            attempt=row.attempt,
            task_retry_count=delivery.dispatch.task_retry_count,
            queue_delay_ms=delivery.queue_delay_ms,
            context=_context_of(row),
        ) as span:
            begun = row.attempts[-1].model_copy(update={"span_id": tracing.trace_ref(span).span_id})
            yield row.model_copy(update={"attempts": (*row.attempts[:-1], begun)})

    @contextmanager
    def _holding(self, row: Row) -> Iterator[None]:
        """Counted, because a delivery that loses the claim lets go while the one that won still works."""
        held = (row.task_id, row.attempt)
        with self._lock:
            self._running[held] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running[held] -= 1
                if not self._running[held]:
                    del self._running[held]

    def _send(self, row: Row) -> Exchange:
        rule = self._policy.rule_for(row.call.url)
        with tracing.calling(attempt=row.attempt, trace_leaves=rule is not None and rule.trace == "w3c"):
            exchange = self._sender.send(row.call, rule, row.task_id)
        if exchange.ending.reason == "denied":
            self._journal.denied(row)
        return exchange

    def _finish(self, row: Row, exchange: Exchange, delivery: _Delivery) -> Answer:
        step = machine.end(row, exchange.ending, response=exchange.response, now=self._clock.now(), random=self._random)
        ended = (step.row or row).attempts[-1]
        tracing.judged(
            get_current_span(),
            verdict=str(ended.verdict),
            reason=ended.reason,
            blame=ended.blame,
            retry_delay_ms=ended.retry_delay_ms,
            status_code=ended.status_code,
        )
        return self._apply(step, row, delivery, exchange)

    def _apply(self, step: Step, before: Row, delivery: _Delivery, exchange: Exchange | None = None) -> Answer:
        """Commit the step, say what was committed, make the task that follows, and only then answer."""
        row = step.row or before
        if step.row is not None and not self._ledger.replace(step.row):
            raise _Changed
        for said in step.says:
            self._journal.step(
                said,
                row,
                dispatch=delivery.dispatch,
                task_name=delivery.task_name,
                queue_delay_ms=delivery.queue_delay_ms,
                trace_rewritten=tracing.rewritten(),
                exchange=exchange,
            )
        if step.creates:
            self._create_next(row)
        return Answer(step.answer, row)

    def _create_next(self, row: Row) -> None:
        """Create the task that *row* awaits, and note that it is there."""
        self._cloud_tasks.create(
            queue=row.queue,
            task_id=row.task_id,
            attempt=row.attempt + 1,
            at=row.next_attempt_at,
            timeout=row.call.timeout,
            headers=tracing.task_headers(tracing.parent_context(row.carrier)),
        )
        self._ledger.note(row.task_id, row.attempt + 1)


def _context_of(row: Row) -> Context | None:
    """The current one, or the row's own where the delivery came without its trace."""
    if tracing.trace_ref(get_current_span()).trace_id == row.trace_id:
        return None
    return tracing.parent_context(row.carrier)
