"""The log records about tasks: the fields of each event, from the row, the delivery and the exchange."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from msgspec.structs import asdict

from traced_relay.downstream.sender import Timing
from traced_relay.logs.record import TraceRef

if TYPE_CHECKING:
    from collections.abc import Mapping

    from traced_relay.cloud_tasks.delivery import Delivery, Dispatch
    from traced_relay.downstream.sender import Exchange
    from traced_relay.logs.writer import Log
    from traced_relay.tasks.row import Row
    from traced_relay.tasks.state_machine import LogEvent

_NO_TIMING = Timing()
_RESULT = ("latency_ms", "verdict", "reason", "blame", "status_code", "retry_delay_ms", "delay_reason")


class TaskLog:
    """
    Logs changes of state, called by the code that commits them.

    The full names of queues start with *queues*.
    """

    def __init__(self, log: Log, queues: str) -> None:
        self._log = log
        self._queues = queues

    def enqueued(self, row: Row, task_name: str) -> None:
        fields = {**_task(row), "task_name": task_name, "route": "direct" if row.kind == "direct" else "relay"}
        self._log.write(
            "task.enqueued",
            trace=_send_span(row),
            message=f"task {row.task_id} enqueued in {row.queue}",
            fields=fields,
            at=row.created_at,
            labels=row.call.labels,
        )

    def enqueue_rejected(self, *, reason: str, detail: str, principal: str | None = None) -> None:
        """A caller's request was refused; a valid token names *principal*. *detail* has no value of it."""
        fields = {"reason": reason, "detail": detail} | ({"principal": principal} if principal else {})
        self._log.write("enqueue.rejected", message=f"enqueue rejected, {reason}: {detail}", fields=fields)

    def dispatch_rejected(self, dispatch: Dispatch, *, reason: str, detail: str, principal: str | None = None) -> None:
        """A delivery was refused; *dispatch* names its queue and task, unverified."""
        fields = {"reason": reason, "detail": detail, **self._names(dispatch)}
        fields |= {"principal": principal} if principal else {}
        self._log.write("dispatch.rejected", message=f"dispatch rejected, {reason}: {detail}", fields=fields)

    def deferred(self, dispatch: Dispatch, *, reason: str, detail: str, row: Row | None = None) -> None:
        """A delivery was answered 500, so that Cloud Tasks delivers it again."""
        fields = {"reason": reason, "detail": detail, **self._names(dispatch), **(_task(row) if row else {})}
        message = f"dispatch of {dispatch.task[:500]} deferred, {reason}: {detail}"
        trace = _send_span(row) if row else None
        self._log.write("dispatch.deferred", message=message, fields=fields, trace=trace)

    def _names(self, dispatch: Dispatch) -> dict[str, str]:
        names = {"queue": dispatch.queue[:100]} if dispatch.queue else {}
        if dispatch.task:
            names["task_name"] = f"{self._queues}/{dispatch.queue[:100]}/tasks/{dispatch.task[:500]}"
        return names

    def stopping(self, signal: str, running: int) -> None:
        message = f"stopping on {signal}: {running} running calls aborted"
        self._log.write("relay.stopping", message=message, fields={"signal": signal, "running": running})

    def swept(self, fields: Mapping[str, Any]) -> None:
        """The summary of a sweep, every minute; its absence is an alert."""
        overdue, pending = fields["overdue"], fields["callbacks_pending"]
        message = f"swept: {fields['running']} running, {overdue} overdue, {pending} callbacks pending"
        self._log.write("relay.swept", message=message, fields=fields)

    def log_event(
        self,
        event: LogEvent,
        row: Row,
        delivery: Delivery | None = None,
        exchange: Exchange | None = None,
    ) -> None:
        """Log one event of the step that led to *row*; without *delivery* the step came from no dispatch."""
        if event.event == "task.finished":
            self._finished(row)
            return
        if event.event == "attempt.finished":
            # Without an exchange another worker ran the attempt: this delivery, if any, is not the one that led to it.
            self._attempt_finished(row, delivery if exchange else None, exchange)
            return
        fields = {**(_dispatched(row, delivery) if delivery else _task(row)), **event.fields}
        trace = _process_span(row) if event.event.startswith("attempt.") else _send_span(row)
        self._log.write(event.event, trace=trace, message=_message(event, row), fields=fields)

    def denied(self, row: Row, delivery: Delivery, detail: str) -> None:
        """Policy denied a call; *detail* is for the operator, the caller only gets the reason."""
        host = urlsplit(row.call.url).hostname
        self._log.write(
            "downstream.denied",
            trace=_process_span(row),
            message=f"task {row.task_id} may not call {host}: {detail}",
            fields={**_dispatched(row, delivery), "reason": "denied", "detail": detail, "downstream": host},
        )

    def _attempt_finished(self, row: Row, delivery: Delivery | None, exchange: Exchange | None) -> None:
        attempt, fields = row.attempts[-1], {**_dispatched(row, delivery), **_result_fields(row, exchange)}
        delay = f", retry in {attempt.retry_delay_ms} ms" if attempt.retry_delay_ms is not None else ""
        ending = f"{attempt.verdict}, {attempt.reason or f'status {attempt.status_code}'}{delay}"
        if exchange and exchange.detail:
            ending, fields["detail"] = f"{ending}: {exchange.detail}", exchange.detail
        message = f"attempt {row.attempt} of task {row.task_id} finished: {ending}"
        trace = _process_span(row)
        self._log.write("attempt.finished", trace=trace, message=message, fields=fields, at=attempt.ended_at)

    def _finished(self, row: Row) -> None:
        fields = {
            **_task(row),
            "state": row.state,
            "attempt_count": row.started,
            "reason": row.reason,
            "blame": row.blame,
            "rule": row.rule,
            "total_ms": row.total_ms or 0,
        }
        why = f", {row.reason}" if row.reason else ""
        message = f"task {row.task_id} {row.state} after {row.started} attempt{'s' * (row.started != 1)}{why}"
        self._log.write("task.finished", trace=_send_span(row), message=message, fields=fields, at=row.finished_at)


def _task(row: Row) -> dict[str, Any]:
    task = {
        "kind": "call" if row.kind == "direct" else row.kind,
        "queue": row.queue,
        "task_id": row.task_id,
        "round": row.round,
    }
    return task if row.callback_of is None else {**task, "callback_of": row.callback_of}


def _dispatched(row: Row, delivery: Delivery | None) -> dict[str, Any]:
    """The attempt and its *delivery*; without one, what the row knows of the delivery to another worker."""
    known = delivery or row.attempts[-1]
    return {
        **_task(row),
        "attempt": row.attempt,
        "retry_count": row.retry_count,
        "rule": row.rule,
        "task_name": known.task_name,
        "dispatch": _as_sent(delivery.dispatch) if delivery else None,
        "queue_delay_ms": known.queue_delay_ms,
        "trace_rewritten": delivery.trace_rewritten if delivery else None,
    }


def _as_sent(dispatch: Dispatch) -> dict[str, Any]:
    """The queue's own counts and times, as Cloud Tasks sent them."""
    return {name: value for name, value in asdict(dispatch).items() if name.startswith("task_")}


def _result_fields(row: Row, exchange: Exchange | None) -> dict[str, Any]:
    attempt = row.attempts[-1]
    request: dict[str, Any] = {
        "requestMethod": row.call.method,
        "requestUrl": row.call.url if row.kind == "call" else _origin_of(row.call.url),
        "latency": f"{(attempt.latency_ms or 0) / 1000:.3f}s",
    }
    if attempt.status_code is not None:
        request["status"] = attempt.status_code
    if exchange and exchange.response_size is not None:
        request["responseSize"] = str(exchange.response_size)
    return {
        **{name: getattr(attempt, name) for name in _RESULT},
        "downstream": urlsplit(row.call.url).hostname,
        "timing": asdict(exchange.timing if exchange else _NO_TIMING),
        "httpRequest": request,
    }


def _origin_of(url: str) -> str:
    """The URL of a callback without its path, which may contain the receiver's secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/"


def _message(event: LogEvent, row: Row) -> str:
    subject = f"attempt {row.attempt} of task {row.task_id}"
    match event.event:
        case "attempt.started":
            return f"{subject} started: {row.call.method} to {urlsplit(row.call.url).hostname}"
        case "attempt.heartbeat":
            return f"{subject} is running, {event.fields['elapsed_ms'] / 1000:.0f} s so far"
        case "attempt.interrupted":
            return f"{subject} interrupted: its process is stopping"
        case "task.cancelled" | "task.redriven":
            return f"task {row.task_id} {event.event.removeprefix('task.')} by {event.fields['actor']}"
        case "dispatch.deferred":
            return f"{subject} is running in another worker; this delivery is deferred"
    return f"{subject}: {event.event}"


def _send_span(row: Row) -> TraceRef:
    return TraceRef(row.trace_id, row.span_id, row.sampled)


def _process_span(row: Row) -> TraceRef:
    return TraceRef(row.trace_id, row.attempts[-1].span_id, row.sampled)
