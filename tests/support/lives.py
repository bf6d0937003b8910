"""Lives of tasks for timelines: documents as the API gives them, with the records and the spans that belong to them."""

from __future__ import annotations

from typing import Any

from traced_relay.formats.durations import format_time, parse_time
from traced_relay.tracing.span_tree import FinishedSpan

BEGINNING = 1_790_000_000.0
TASK_ID = "4f0c" * 8
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"

OK: dict[str, Any] = {"status_code": 200, "verdict": "succeeded"}
BUSY: dict[str, Any] = {"status_code": 503, "verdict": "retry", "reason": "http_503", "blame": "downstream"}
TIMEOUT: dict[str, Any] = {"verdict": "gave_up", "reason": "timeout", "blame": "downstream"}


def at(seconds: float | None) -> str | None:
    return None if seconds is None else format_time(BEGINNING + seconds)


def attempt(number: int, start: float, end: float | None, ending: dict[str, Any], **more: Any) -> dict[str, Any]:
    nothing = dict.fromkeys(("status_code", "verdict", "reason", "blame", "retry_delay_ms", "delay_reason"))
    known = {"attempt": number, "round": 1, "task_name": f"{TASK_ID}-{number}", "span_id": f"{number:016x}"}
    return nothing | known | {"started_at": at(start), "ended_at": at(end)} | ending | more


def document(state: str, *attempts: dict[str, Any], **more: Any) -> dict[str, Any]:
    ended = state in ("succeeded", "failed", "cancelled")
    finished_at = attempts[-1]["ended_at"] if ended and attempts else None
    return {
        "task_id": TASK_ID,
        "trace_id": TRACE_ID,
        "queue": "relay",
        "state": state,
        "method": "POST",
        "url": "http://127.0.0.1:9000/flaky?token=secret",
        "round": attempts[-1]["round"] if attempts else 1,
        "created_at": at(0),
        "schedule_time": at(0),
        "finished_at": finished_at,
        "total_ms": None if finished_at is None else round((parse_time(finished_at) - BEGINNING) * 1000),
        "next_attempt_at": None,
        "heartbeat_at": None,
        "attempt": attempts[-1]["attempt"] if attempts else 0,
        "reason": attempts[-1]["reason"] if ended and attempts else None,
        "blame": attempts[-1]["blame"] if ended and attempts else None,
        "attempts": list(attempts),
    } | more


def record(event: str, time: str | None, **more: Any) -> dict[str, Any]:
    return {"event": event, "time": time, "task_id": TASK_ID, "round": 1} | more


def timing(*milliseconds: int | None) -> dict[str, int | None]:
    return dict(zip(("token_ms", "connect_ms", "tls_ms", "first_byte_ms", "body_ms"), milliseconds, strict=True))


def records(life: dict[str, Any]) -> list[dict[str, Any]]:
    """Every record that such a life leaves."""
    made = [record("task.enqueued", life["created_at"])]
    for one in life["attempts"]:
        said = {"attempt": one["attempt"], "round": one["round"], "downstream": "127.0.0.1"}
        made.append(record("attempt.started", one["started_at"], **said))
        if one["ended_at"]:
            lasted = round((parse_time(one["ended_at"]) - parse_time(one["started_at"])) * 1000)
            parts = timing(None, 1, None, lasted - 11, 3)
            made.append(record("attempt.finished", one["ended_at"], timing=parts, **said))
    if life["finished_at"]:
        made.append(record("task.finished", life["finished_at"], round=life["round"]))
    return made


def span(kind: str, name: str, span_id: str, parent_id: str | None, start: float, end: float) -> FinishedSpan:
    message = {"messaging.message.id": TASK_ID} if kind in ("PRODUCER", "CONSUMER") else {}
    start, end = BEGINNING + start, BEGINNING + end
    return FinishedSpan(name, kind, TRACE_ID, span_id, parent_id, start, end, "UNSET", message)


def spans(life: dict[str, Any]) -> list[FinishedSpan]:
    """Every span that such a life leaves, under a parent of the caller's."""
    made = [
        span("SERVER", "POST /v1/tasks", "a" * 16, "c" * 16, -0.002, 0.006),
        span("PRODUCER", "send relay", "b" * 16, "a" * 16, 0.001, 0.005),
    ]
    for number, one in enumerate(life["attempts"], start=1):
        if one["ended_at"]:
            start, end = (parse_time(one[name]) - BEGINNING for name in ("started_at", "ended_at"))
            made += [
                span("SERVER", "POST /dispatch", f"d{number:015x}", "b" * 16, start - 0.001, end + 0.001),
                span("CONSUMER", "process relay", one["span_id"], f"d{number:015x}", start, end),
                span("CLIENT", "POST", f"c{number:015x}", one["span_id"], start + 0.003, end - 0.004),
            ]
    return made


FLAKY = document(
    "succeeded",
    attempt(1, 0.015, 0.225, BUSY, retry_delay_ms=420, delay_reason="backoff"),
    attempt(2, 0.66, 0.9, BUSY, retry_delay_ms=1900, delay_reason="retry_after"),
    attempt(3, 2.81, 3.4, OK),
)
