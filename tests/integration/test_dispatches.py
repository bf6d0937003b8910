from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from support.asking import ask, get
from support.schema import validate
from traced_relay.tasks.ids import adopted_task_id
from traced_relay.testing import Downstream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traced_relay.testing import RunningRelay

QUEUE = "projects/test-project/locations/us-central1/queues/relay"
FROM_QUEUE = {"X-AppEngine-QueueName": "relay", "X-AppEngine-TaskName": "t1"}


@pytest.fixture
def tasks(relay: RunningRelay) -> Iterator[tasks_v2.CloudTasksClient]:
    with grpc.insecure_channel(relay.queue.address) as channel:
        yield tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))


def make(tasks: tasks_v2.CloudTasksClient, content: Any, **headers: str) -> str:
    request = {"relative_uri": "/dispatch", "body": json.dumps(content).encode(), "headers": headers}
    return str(tasks.create_task(parent=QUEUE, task={"app_engine_http_request": request}).name)


def adopted(relay: RunningRelay, task_name: str) -> dict[str, Any]:
    task_id = adopted_task_id(task_name)
    relay.wait_for("task.finished", task_id)
    document: dict[str, Any] = get(f"{relay.url}/v1/tasks/{task_id}").document
    return document


def test_a_task_made_by_hand_is_adopted(relay: RunningRelay, tasks: tasks_v2.CloudTasksClient) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319a"
    with Downstream(503) as downstream:
        bare = {"url": f"{downstream.url}/report", "method": "PUT", "headers": {"x-team": "a"}, "body": {"n": 1}}
        name = make(
            tasks, bare | {"timeout": 30, "comment": "ignored"}, traceparent=f"00-{trace_id}-b7ad6b7169203331-01"
        )
        document = adopted(relay, name)
        first, second = downstream.wait_for(2)
    assert (document["state"], document["method"], document["trace_id"]) == ("succeeded", "PUT", trace_id)
    assert [attempt["task_name"] for attempt in document["attempts"]] == [
        name,
        f"{QUEUE}/tasks/{document['task_id']}-2",
    ]
    assert (first.method, first.path, first.body) == ("PUT", "/report", b'{"n":1}')
    assert (first.headers["content-type"], first.headers["x-team"]) == ("application/json", "a")
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"] == document["task_id"]
    assert first.headers["traceparent"].split("-")[1] == second.headers["traceparent"].split("-")[1] == trace_id
    for record in relay.records.records(document["task_id"]):
        validate(record)


@pytest.mark.parametrize(
    ("extra", "body", "content_type"),
    [
        ({}, b"{}", "application/json"),
        ({"body": "a=1", "content_type": "application/x-www-form-urlencoded"}, b"a=1", None),
        ({"body": None, "timeout": "5m"}, b"{}", "application/json"),
        ({"body": {}, "headers": {"Content-Type": "text/csv"}}, b"{}", "text/csv"),
        ({"timeout": 10**9}, b"{}", "application/json"),
    ],
)
def test_what_a_bare_task_leaves_out_has_the_old_defaults(
    relay: RunningRelay,
    tasks: tasks_v2.CloudTasksClient,
    downstream: Downstream,
    extra: dict[str, Any],
    body: bytes,
    content_type: str | None,
) -> None:
    document = adopted(relay, make(tasks, {"url": downstream.url} | extra))
    (arrived,) = downstream.arrived
    assert (document["state"], arrived.method, arrived.body) == ("succeeded", "POST", body)
    assert arrived.headers["content-type"] == (content_type or "application/x-www-form-urlencoded")


def test_a_bare_task_for_a_forbidden_url_ends_as_denied(relay: RunningRelay, tasks: tasks_v2.CloudTasksClient) -> None:
    document = adopted(relay, make(tasks, {"url": "https://elsewhere.example/"}))
    assert (document["state"], document["reason"], document["rule"]) == ("failed", "denied", None)
    events = [record["event"] for record in relay.records.records(document["task_id"])]
    assert events == ["attempt.started", "downstream.denied", "attempt.finished", "task.finished"]


def dispatch(relay: RunningRelay, body: bytes, headers: dict[str, str]) -> tuple[int, list[dict[str, Any]]]:
    """The answer's status, and the records that the delivery led to."""
    cursor, _ = relay.records.since(0)
    status = ask("POST", f"{relay.url}/dispatch", body=body, headers=headers).status
    _, records = relay.records.since(cursor)
    for record in records:
        validate(record)
    return status, records


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-AppEngine-TaskName": "t1"},
        {"X-AppEngine-QueueName": "another-queue", "X-AppEngine-TaskName": "t1"},
        {"X-AppEngine-QueueName": "relay"},
        {"X-AppEngine-QueueName": ""},
        {"X-CloudTasks-QueueName": "relay", "X-CloudTasks-TaskName": "t1"},
        {"X-AppEngine-QueueName": "relay,relay", "X-AppEngine-TaskName": "t1"},
        {"X-AppEngine-QueueName": "relay", "X-CloudTasks-TaskName": "t1"},
        {"X-CloudTasks-QueueName": "relay", "X-AppEngine-TaskName": "t1"},
    ],
)
def test_what_does_not_come_from_the_queue_is_refused(relay: RunningRelay, headers: dict[str, str]) -> None:
    trace_id = secrets.token_hex(16)
    traced = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
    status, records = dispatch(relay, b'{"url": "http://127.0.0.1:1/"}', headers | traced)
    assert status == 403
    assert [(record["event"], record["severity"]) for record in records] == [("dispatch.rejected", "WARNING")]
    assert relay.spans.spans(trace_id) == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage",
        b"\xff",
        b"[]",
        b"5",
        b"{}",
        b'{"task_id": 5, "attempt": 1}',
        b'{"task_id": "x", "attempt": 1}',
        b'{"task_id": "' + b"0" * 32 + b'", "attempt": 0}',
        b'{"task_id": "' + b"0" * 32 + b'", "attempt": true}',
        b'{"url": 5}',
        b'{"url": "gopher://x"}',
        b'{"url": "http://127.0.0.1/", "method": "BREW"}',
        b'{"url": "http://127.0.0.1/", "headers": {"host": "x"}}',
        b'{"url": "http://127.0.0.1/", "headers": []}',
        b'{"url": "http://127.0.0.1/", "timeout": "soon"}',
        b'{"url": "http://127.0.0.1/", "timeout": -1}',
        b'{"url": "http://127.0.0.1/", "timeout": true}',
        b'{"url": "http://127.0.0.1/", "timeout": []}',
        b'{"url": "http://127.0.0.1/", "body": "\\ud800"}',
        b'{"url": "http://127.0.0.1/", "body": {"a": "\\ud800"}}',
        b'{"url": "http://127.0.0.1/", "content_type": "a\\nb"}',
        b"[" * 100_000,
    ],
    ids=range(23),
)
def test_an_unreadable_task_is_dropped_with_an_error_record(relay: RunningRelay, body: bytes) -> None:
    status, records = dispatch(relay, body, FROM_QUEUE)
    assert status == 200
    assert [(r["event"], r["reason"], r["severity"]) for r in records] == [("dispatch.rejected", "unreadable", "ERROR")]


def test_a_task_without_a_row_is_dropped_with_an_error_record(relay: RunningRelay) -> None:
    body = json.dumps({"task_id": "0" * 32, "attempt": 1}).encode()
    status, records = dispatch(relay, body, FROM_QUEUE)
    assert status == 200
    assert [(r["event"], r["reason"], r["severity"]) for r in records] == [
        ("dispatch.rejected", "unknown_task", "ERROR")
    ]


@pytest.mark.parametrize(
    "odd",
    [
        {"X-AppEngine-TaskETA": "nan", "X-AppEngine-TaskRetryCount": "-1"},
        {"X-AppEngine-TaskETA": "9" * 300, "X-AppEngine-TaskRetryCount": "x" * 300},
        {"X-AppEngine-TaskPreviousResponse": "", "X-AppEngine-TaskRetryReason": "x" * 5000},
        {"traceparent": "garbage", "x-relay-traceparent": "00-zz-zz-01", "tracestate": "=" * 600},
    ],
)
def test_odd_headers_never_break_a_dispatch(
    relay: RunningRelay, downstream: Downstream, odd: dict[str, str], request: pytest.FixtureRequest
) -> None:
    headers = {**FROM_QUEUE, "X-AppEngine-TaskName": f"odd-{abs(hash(request.node.name))}"}
    body = json.dumps({"url": downstream.url}).encode()
    status, records = dispatch(relay, body, headers | odd)
    assert (status, len(downstream.arrived)) == (200, 1)
    assert [record["event"] for record in records] == ["attempt.started", "attempt.finished", "task.finished"]


def test_a_second_delivery_of_an_ended_task_does_nothing(relay: RunningRelay, downstream: Downstream) -> None:
    headers = {**FROM_QUEUE, "X-AppEngine-TaskName": "twice"}
    body = json.dumps({"url": downstream.url}).encode()
    assert dispatch(relay, body, headers)[0] == 200
    assert dispatch(relay, body, headers) == (200, [])
    assert len(downstream.arrived) == 1
