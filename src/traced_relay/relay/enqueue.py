"""A caller's request becomes a row in the ledger, then a task in the queue, then a receipt."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from traced_relay.errors import EnqueueFailed, FieldError, Unavailable
from traced_relay.formats import validation
from traced_relay.tasks import status_document
from traced_relay.tasks.ids import attempt_name
from traced_relay.tasks.row import new_row
from traced_relay.tracing import instrumentation, propagation, spans

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from opentelemetry.trace import Span, Tracer

    from traced_relay.cloud_tasks.client import CloudTasks
    from traced_relay.ledger.protocol import Ledger
    from traced_relay.relay.admission import Admission, Admitted
    from traced_relay.relay.commit import StepApplier
    from traced_relay.relay.policy import Principal
    from traced_relay.relay.task_log import TaskLog
    from traced_relay.runtime.clock import Clock
    from traced_relay.tasks.api_types import Receipt
    from traced_relay.tasks.row import Row
    from traced_relay.tasks.status_document import Links


KEYS_KEPT = 31 * 86_400.0  # of calls with route direct: Cloud Tasks keeps a task as long


@dataclass(frozen=True, kw_only=True)
class Enqueuer:
    """Direct calls carry ID tokens of *direct_account*; *links* returns those for the host of the current request."""

    admission: Admission
    ledger: Ledger
    cloud_tasks: CloudTasks
    task_log: TaskLog
    tracer: Tracer
    clock: Clock
    step_applier: StepApplier
    direct_account: str
    links: Callable[[], Links]

    def enqueue(self, document: Any, principal: Principal, key: str | None = None) -> Receipt:
        """
        Accept the call that *document* asks for.

        The same *principal*, *key* and document give the same task. After InvalidCall, Unavailable or EnqueueFailed
        the call will not be made, unless the ledger became unavailable before its row could be removed; with a *key*
        it may be made, and a request with that key then gives its receipt.
        """
        admitted = self.admission.admit(document, principal, key)
        if key is not None and (row := self.ledger.get(admitted.task_id)) is not None:
            return self._repeated(row, admitted)
        with self._send_span(admitted):
            row = self._new_row(admitted, principal)
            if admitted.is_direct and key is None:
                return self._create_direct(row, admitted, is_stored=False)
            first = self._insert(row, is_repeatable=key is not None)
            if first is not row:
                instrumentation.discard_current_span()
                return self._repeated(first, admitted)
            if admitted.is_direct:
                return self._create_direct(row, admitted)
            row = self._ensure_task(row, is_repeatable=key is not None)
        return self._receipt(row)

    def _send_span(self, admitted: Admitted) -> AbstractContextManager[Span]:
        task_name = self.cloud_tasks.task_name(admitted.queue, attempt_name(admitted.task_id, 1))
        return spans.sending(self.tracer, admitted.queue, admitted.task_id, task_name=task_name)

    def _insert(self, row: Row, *, is_repeatable: bool) -> Row:
        """Insert *row*; returns it, or the one that another request with the same key inserted first."""
        try:
            while not self.ledger.insert(row):
                first = self.ledger.get(row.task_id)
                if first is not None:  # None: that row expired in between
                    return first
        except Unavailable:
            if not is_repeatable:
                with suppress(Unavailable):
                    self.ledger.remove(row)  # it may have been written, and only the response lost
            raise
        return row

    def _new_row(self, admitted: Admitted, principal: Principal) -> Row:
        now, call, others = self.clock.now(), admitted.call, {}
        if admitted.is_direct:  # the row only keeps the key: nothing is dispatched, and no request shows it
            call = call.changed(body=b"")
            others = {"kind": "direct", "state": "succeeded", "next_attempt_at": None, "finished_at": now + KEYS_KEPT}
        return new_row(
            task_id=admitted.task_id,
            queue=admitted.queue,
            call=call,
            rule=admitted.rule.name,
            caller=principal.name,
            fingerprint=admitted.fingerprint,
            origin=self.links().base,
            trace=propagation.trace_context(),
            now=now,
            schedule_time=admitted.at,
            **others,
        )

    def _ensure_task(self, row: Row, *, is_repeatable: bool) -> Row:
        """
        Create the first task of *row*, unless a request with the same key did; return the row as it is then.

        If that fails, the row is removed, so that the call is not made; a *is_repeatable* one stays, for the next
        request with its key.
        """
        try:
            while row.lacks_task:
                if self.step_applier.create_task(row, at=_due(row)):
                    return row
                current = self.ledger.get(row.task_id)
                if current is None or not current.lacks_task:
                    row = current or row  # another request created the task, and it may have ended already
                    break
                if self.cloud_tasks.exists(self.step_applier.task_name(current)):
                    self.step_applier.note_task(current)
                    return current
                row = self._renamed(current)
        except (Unavailable, EnqueueFailed):
            if is_repeatable or self.ledger.remove(row):
                raise
            # The task was created all the same, and its attempt has started.
        self.step_applier.note_first_task(row)
        return row

    def _renamed(self, row: Row) -> Row:
        """
        Await the next task name: Cloud Tasks reserves the name of a deleted task for days; a key may outlive its row.

        If another request changes the row first, returns the unchanged *row*, so that it is read again.
        """
        number = row.awaited + 1
        renamed = row.changed(awaited=number, first_number=number, revision=row.revision + 1)
        return renamed if self.ledger.replace(renamed) else row

    def _repeated(self, row: Row, admitted: Admitted) -> Receipt:
        if row.fingerprint != admitted.fingerprint:
            raise validation.invalid_call([FieldError("Idempotency-Key", "was already used with a different request")])
        if admitted.is_direct:
            return self._create_direct(row, admitted)
        return self._receipt(self._ensure_task(row, is_repeatable=True))

    def _receipt(self, row: Row) -> Receipt:
        return status_document.receipt(row, self.step_applier.task_name(row, row.first_number), self.links())

    def _create_direct(self, row: Row, admitted: Admitted, *, is_stored: bool = True) -> Receipt:
        """Create the task with which Cloud Tasks makes the call itself, unless the row says that it was created."""
        receipt = self._receipt(row)
        receipt = {**receipt, "state": "queued", "links": {**receipt["links"], "status": None}}
        if row.noted_attempt > 0:  # the task's name alone is reserved for hours only
            return receipt
        call, rule = admitted.call, admitted.rule
        trace = row.trace.task_headers() if rule.trace == "w3c" else {}
        self.cloud_tasks.create_direct(
            queue=row.queue,
            name=self.step_applier.task_name(row),
            at=_due(row),
            call=call,
            added={**trace, "idempotency-key": row.task_id},
            service_account=self.direct_account,
            audience=rule.audience_of(call.url) if rule.auth == "id_token" else None,
        )
        if is_stored:
            self.step_applier.note_task(row)
        else:
            self.task_log.enqueued(row, receipt["task_name"])
        return receipt


def _due(row: Row) -> float | None:
    """When the first task is due; None for now, so that clocks may differ."""
    return row.schedule_time if row.schedule_time > row.created_at else None
