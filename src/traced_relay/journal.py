"""The records of a task's steps: which fields each event carries, taken from the row, the dispatch and the exchange."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from traced_relay.trace_ref import TraceRef

if TYPE_CHECKING:
    from collections.abc import Mapping

    from traced_relay.dispatch import Delivery, Dispatch
    from traced_relay.logs import Log
    from traced_relay.machine import Said
    from traced_relay.rows import Row
    from traced_relay.sender import Exchange


class Journal:
    """Says what was committed; whoever commits a change of state calls it, and nobody else."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def enqueued(self, row: Row, task_name: str) -> None:
        fields = {**_task(row), "task_name": task_name}
        self._log.say(
            "task.enqueued",
            trace=_send_span(row),
            message=f"task {row.task_id} enqueued in {row.queue}",
            fields=fields,
            at=row.created_at,
        )

    def rejected(self, event: str, *, reason: str, detail: str, principal: str | None = None, **claims: object) -> None:
        """A request or a delivery that was turned away; *claims* are what it said of itself."""
        fields = {"reason": reason, "detail": detail, "principal": principal, **claims}
        known = {name: value for name, value in fields.items() if value is not None}
        self._log.say(event, message=f"{event.split('.')[0]} rejected, {reason}: {detail}", fields=known)

    def deferred(self, dispatch: Dispatch, reason: str, detail: str) -> None:
        """A delivery that could not be worked now, through no fault of its task: the queue keeps it."""
        self._log.say(
            "dispatch.deferred",
            message=f"dispatch of {dispatch.task} deferred, {reason}: {detail}",
            fields={"reason": reason, "detail": detail, "queue": dispatch.queue, "task_name": dispatch.task},
        )

    def stopping(self, signal: str, running: int) -> None:
        message = f"{signal}: {running} running calls are cut"
        self._log.say("relay.stopping", message=message, fields={"signal": signal, "running": running})

    def step(
        self,
        said: Said,
        row: Row,
        delivery: Delivery,
        exchange: Exchange | None = None,
    ) -> None:
        """One record of the step that made *row* what it is."""
        if said.event == "task.finished":
            self._finished(row)
            return
        fields = {
            **_task(row),
            "task_name": delivery.task_name,
            "attempt": row.attempt,
            "retry_count": row.retry_count,
            "dispatch": _as_the_queue_said(delivery.dispatch),
            "queue_delay_ms": delivery.queue_delay_ms,
            "trace_rewritten": delivery.trace_rewritten,
            "rule": row.rule,
            **said.fields,
        }
        at = None
        if said.event == "attempt.finished":
            fields |= _judged(row, exchange)
            at = row.attempts[-1].ended_at
        trace = _process_span(row) if said.event.startswith("attempt.") else _send_span(row)
        self._log.say(said.event, trace=trace, message=_message(said, row), fields=fields, at=at)

    def denied(self, row: Row) -> None:
        host = urlsplit(row.call.url).hostname
        fields = {**_task(row), "attempt": row.attempt, "reason": "denied", "downstream": host, "rule": row.rule}
        self._log.say(
            "downstream.denied",
            trace=_process_span(row),
            message=f"task {row.task_id} may not call {host}",
            fields=fields,
        )

    def _finished(self, row: Row) -> None:
        ended = row.finished_at or row.created_at
        fields = {
            **_task(row),
            "state": row.state,
            "attempt_count": row.attempt,
            "reason": row.reason,
            "blame": row.blame,
            "rule": row.rule,
            "total_ms": round((ended - row.created_at) * 1000),
        }
        why = f", {row.reason}" if row.reason else ""
        message = f"task {row.task_id} {row.state} after {row.attempt} attempts{why}"
        self._log.say("task.finished", trace=_send_span(row), message=message, fields=fields, at=row.finished_at)


def _task(row: Row) -> dict[str, Any]:
    return {"kind": row.kind, "queue": row.queue, "task_id": row.task_id, "round": row.round}


def _as_the_queue_said(dispatch: Dispatch) -> Mapping[str, Any]:
    return {
        "task_retry_count": dispatch.task_retry_count,
        "task_execution_count": dispatch.task_execution_count,
        "task_eta": dispatch.task_eta,
        "task_previous_response": dispatch.task_previous_response,
        "task_retry_reason": dispatch.task_retry_reason,
    }


def _judged(row: Row, exchange: Exchange | None) -> dict[str, Any]:
    attempt = row.attempts[-1]
    request: dict[str, Any] = {
        "requestMethod": row.call.method,
        "requestUrl": row.call.url,
        "latency": f"{(attempt.latency_ms or 0) / 1000:.3f}s",
    }
    if attempt.status_code is not None:
        request["status"] = attempt.status_code
    if exchange and exchange.response_size is not None:
        request["responseSize"] = str(exchange.response_size)
    timing = exchange.timing if exchange else None
    return {
        "latency_ms": attempt.latency_ms,
        "verdict": attempt.verdict,
        "reason": attempt.reason,
        "blame": attempt.blame,
        "status_code": attempt.status_code,
        "retry_delay_ms": attempt.retry_delay_ms,
        "delay_reason": attempt.delay_reason,
        "downstream": urlsplit(row.call.url).hostname,
        "timing": {
            part: getattr(timing, part, None)
            for part in ("token_ms", "connect_ms", "tls_ms", "first_byte_ms", "body_ms")
        },
        "httpRequest": request,
    }


def _message(said: Said, row: Row) -> str:
    what = f"attempt {row.attempt} of task {row.task_id}"
    match said.event:
        case "attempt.finished":
            attempt = row.attempts[-1]
            ending = attempt.reason or f"answered {attempt.status_code}"
            delay = f", again in {attempt.retry_delay_ms} ms" if attempt.retry_delay_ms is not None else ""
            return f"{what}: {attempt.verdict}, {ending}{delay}"
        case "attempt.started":
            return f"{what} started: {row.call.method} to {urlsplit(row.call.url).hostname}"
    return f"{what}: {said.event}"


def _send_span(row: Row) -> TraceRef:
    return TraceRef(row.trace_id, row.span_id, row.sampled)


def _process_span(row: Row) -> TraceRef:
    return TraceRef(row.trace_id, row.attempts[-1].span_id, row.sampled)
