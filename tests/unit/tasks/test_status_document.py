from __future__ import annotations

import base64
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.documents import LINKS, QUEUED
from support.example_rows import NOW, SPAN_ID, TASK_ID, TRACE_ID, call, policy, row
from traced_relay.api import listing
from traced_relay.tasks import status_document
from traced_relay.tasks.row import Attempt, Response, Row
from traced_relay.tasks.status_document import Context, Links

LOCAL = Links("http://127.0.0.1:8080", "p", "http://127.0.0.1:8080/console")
DAY = 86_400.0


def summary(given: Row, now: float = NOW + 1.5) -> dict[str, Any]:
    return status_document.summary(given, Context(links=LOCAL, now=now, retention=7 * DAY))


def answered(body: bytes, *, truncated: bool = False) -> Any:
    response = Response(status_code=200, headers={"content-type": "text/plain"}, body=body, truncated=truncated)
    return status_document.status(row(response=response), Context(links=LOCAL, now=NOW, retention=DAY))["response"]


def test_a_queued_task_in_full() -> None:
    assert summary(row()) == QUEUED
    assert status_document.status(row(), Context(links=LOCAL, now=NOW + 1.5, retention=7 * DAY)) == {
        **QUEUED,
        "attempts": [],
        "response": None,
    }


def test_an_ended_task_has_expires_at_and_total_ms() -> None:
    ended = row(state="failed", finished_at=NOW + 12.3456, next_attempt_at=None, reason="http_404", blame="caller")
    assert summary(ended) == QUEUED | {
        "state": "failed",
        "finished_at": "2026-09-21T14:13:32.345600Z",
        "expires_at": "2026-09-28T14:13:32.345600Z",
        "next_attempt_at": None,
        "overdue_ms": 0,
        "reason": "http_404",
        "blame": "caller",
        "total_ms": 12_346,
    }


def test_a_clock_set_back_makes_no_duration_negative() -> None:
    ended = row(state="succeeded", finished_at=NOW - 3600, next_attempt_at=None)
    assert summary(ended, now=NOW - 3600)["total_ms"] == 0


def test_a_running_task_has_its_workers_heartbeat_at() -> None:
    seen = {"heartbeat_at": "2026-09-21T14:13:25.000000Z"}
    assert (
        status_document.summary(row(), Context(links=LOCAL, now=NOW + 1.5, retention=7 * DAY, heartbeat_at=NOW + 5))
        == QUEUED | seen
    )
    assert (
        status_document.status(row(), Context(links=LOCAL, now=NOW, retention=DAY, heartbeat_at=NOW + 5))[
            "heartbeat_at"
        ]
        == (seen["heartbeat_at"])
    )


def test_a_task_that_is_not_due_is_not_overdue() -> None:
    assert summary(row(), now=NOW - 60)["overdue_ms"] == 0


@pytest.mark.parametrize(
    ("given", "codes"),
    [
        (call(), [429, 503]),
        (call(idempotent=True), [408, 425, 429, 500, 502, 503, 504]),
        (call(retry=policy(retryable_status_codes=[])), []),
        (call(idempotent=True, retry=policy(retryable_status_codes=[404])), [404]),
    ],
)
def test_the_policy_is_shown_resolved(given: Any, codes: list[int]) -> None:
    assert summary(row(call=given))["retry"]["retryable_status_codes"] == codes


def test_an_attempt_in_full() -> None:
    attempt = Attempt(
        attempt=1,
        round=1,
        task_name="projects/p/locations/l/queues/relay/tasks/t-1",
        span_id=SPAN_ID,
        version="v7",
        instance="i-1",
        started_at=NOW + 0.5,
        ended_at=None,
        queue_delay_ms=12,
    )
    [shown] = status_document.status(row(attempts=(attempt,)), Context(links=LOCAL, now=NOW, retention=DAY))["attempts"]
    assert shown == {
        "attempt": 1,
        "round": 1,
        "task_name": "projects/p/locations/l/queues/relay/tasks/t-1",
        "span_id": SPAN_ID,
        "version": "v7",
        "instance": "i-1",
        "started_at": "2026-09-21T14:13:20.500000Z",
        "ended_at": None,
        "queue_delay_ms": 12,
        "latency_ms": None,
        "status_code": None,
        "verdict": None,
        "reason": None,
        "blame": None,
        "retry_delay_ms": None,
        "delay_reason": None,
    }


def test_a_response_is_text_if_utf8_and_base64_otherwise() -> None:
    plain = {"status_code": 200, "headers": {"content-type": "text/plain"}, "truncated": False}
    assert answered("é\x00".encode()) == plain | {"body": "é\x00"}
    assert answered(b"") == plain | {"body": ""}
    assert answered(b"\xff\x00") == plain | {"body_base64": "/wA="}
    assert answered(b'{"a": NaN}', truncated=True) == plain | {"body": '{"a": NaN}', "truncated": True}


def test_links_point_to_google_without_a_console() -> None:
    assert Links("https://relay.example.com", "example.com:p").of(TASK_ID, TRACE_ID) == {
        "status": f"https://relay.example.com/v1/tasks/{TASK_ID}",
        "trace": f"https://console.cloud.google.com/traces/explorer;traceId={TRACE_ID}?project=example.com%3Ap",
        "logs": "https://console.cloud.google.com/logs/query;query=operation.id%3D%22"
        f"{TASK_ID}%22?project=example.com%3Ap",
    }


def test_a_receipt_in_full() -> None:
    assert status_document.receipt(row(), f"projects/p/x/{TASK_ID}-1", LOCAL) == {
        "task_id": TASK_ID,
        "task_name": f"projects/p/x/{TASK_ID}-1",
        "queue": "relay",
        "state": "queued",
        "trace_id": TRACE_ID,
        "schedule_time": "2026-09-21T14:13:20.000000Z",
        "links": LINKS,
    }


@given(st.floats(0, 1e11), st.from_regex(r"[0-9a-f]{32}", fullmatch=True))
def test_a_page_token_is_read_back_unchanged(created_at: float, task_id: str) -> None:
    token = listing.page_token((created_at, task_id))
    assert listing.page_position(token) == (created_at, task_id)


def token(text: bytes) -> str:
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


@pytest.mark.parametrize(
    "given",
    [
        *("", "x", "é", "\ud800", "W10", "====", "a b"),
        *(
            token(text)
            for text in (b"null", b"[1.5]", b'[1.5, "a", 2]', b'["1.5", "a"]', b"[1.5, 2]", b'{"a": 1}', b'"ab"')
        ),
        *(
            token(text)
            for text in (b'[NaN, "a"]', b'[1e999, "a"]', b"[1" + b"0" * 350 + b', "a"]', b'[1.5, "\\ud800"]')
        ),
        *(token(text) for text in (b"[" * 5000, b"\xff", b'[true, "a"]')),
    ],
    ids=range(21),
)
def test_a_foreign_page_token_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        listing.page_position(given)


@given(st.text() | st.binary().map(token))
def test_no_token_makes_it_raise_anything_but_value_error(given: str) -> None:
    with suppress(ValueError):
        listing.page_position(given)
