from __future__ import annotations

import base64
import json
import re
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
from werkzeug.wrappers import Response

from support.asking import ask, get, post
from support.hanging import Hanging
from support.schema import validate
from traced_relay.tasks.call import DAY
from traced_relay.tasks.ids import adopted_task_id
from traced_relay.testing import Downstream, RunningRelay

if TYPE_CHECKING:
    from pathlib import Path

    from traced_relay.testing import Arrived, ManualClock
    from traced_relay.tracing.span_tree import FinishedSpan

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
QUEUE = "projects/test-project/locations/us-central1/queues/relay"
QUICKLY = {"min_backoff": "0.05s", "jitter": "none"}


def enqueue(relay: RunningRelay, url: str, *, sent: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    answer = post(f"{relay.url}/v1/tasks", {"url": url} | fields, **(sent or {}))
    assert answer.status == 202, answer.document
    assert answer.headers.get("location") == answer.document["links"]["status"]
    receipt: dict[str, Any] = answer.document
    return receipt


def ended(relay: RunningRelay, receipt: dict[str, Any]) -> dict[str, Any]:
    relay.wait_for("task.finished", receipt["task_id"])
    document: dict[str, Any] = get(receipt["links"]["status"]).document
    return document


def spans_of(relay: RunningRelay, trace_id: str, dispatches: int) -> list[FinishedSpan]:
    """The spans of a trace, once the last dispatch has been answered and its span has ended."""
    assert relay.queue.wait_until_idle(10)
    spans = relay.spans.spans(trace_id)
    assert sum(span.name == "POST /dispatch" for span in spans) == dispatches
    return spans


def test_one_trace_leads_from_the_caller_to_the_downstream(relay: RunningRelay) -> None:
    with Downstream(503) as downstream:
        receipt = enqueue(relay, f"{downstream.url}/build?token=hush", sent={"traceparent": CALLER}, retry=QUICKLY)
        document = ended(relay, receipt)
        arrived = downstream.wait_for(2)
    trace_id = CALLER.split("-")[1]
    spans = spans_of(relay, trace_id, dispatches=2)
    by_id = {span.span_id: span for span in spans}

    def path(span_id: str) -> list[str]:
        span = by_id.get(span_id)
        return [] if span is None else [*path(span.parent_id or ""), f"{span.kind} {span.name}"]

    trunk = ["SERVER POST /v1/tasks", "PRODUCER send relay", "SERVER POST /dispatch", "CONSUMER process relay"]
    for request in arrived:
        version, trace, parent, flags = request.headers["traceparent"].split("-")
        assert (version, trace, int(flags, 16) & 1) == ("00", trace_id, 1)
        assert path(parent) == [*trunk, "CLIENT POST"]
    (root,) = (span for span in spans if span.name == "POST /v1/tasks")
    assert root.parent_id == CALLER.split("-")[2]
    assert {span.parent_id for span in spans} - by_id.keys() == {root.parent_id}
    sent = next(span for span in spans if span.kind == "PRODUCER")
    assert [span.parent_id for span in spans if span.name == "POST /dispatch"] == [sent.span_id, sent.span_id]
    resends = [span.attributes.get("http.request.resend_count") for span in spans if span.kind == "CLIENT"]
    assert resends == [None, 1]
    assert receipt["trace_id"] == document["trace_id"] == trace_id
    assert [attempt["span_id"] for attempt in document["attempts"]] == [
        span.span_id for span in spans if span.kind == "CONSUMER"
    ]
    assert "hush" not in repr(spans)


def test_the_records_tie_queue_task_retry_and_latency_together(relay: RunningRelay) -> None:
    with Downstream(500, 503) as downstream:
        url = f"{downstream.url}/build?token=hush"
        receipt = enqueue(relay, url, body="hush", sent={"traceparent": CALLER}, idempotent=True, retry=QUICKLY)
        document = ended(relay, receipt)
    records = relay.records.records(receipt["task_id"])
    for record in records:
        validate(record)
    assert sorted((r["event"], r.get("attempt", 0), r.get("retry_count")) for r in records) == [
        ("attempt.finished", 1, 0),
        ("attempt.finished", 2, 1),
        ("attempt.finished", 3, 2),
        ("attempt.started", 1, 0),
        ("attempt.started", 2, 1),
        ("attempt.started", 3, 2),
        ("task.enqueued", 0, None),
        ("task.finished", 0, None),
    ]
    trace = f"projects/test-project/traces/{receipt['trace_id']}"
    assert {record["logging.googleapis.com/trace"] for record in records} == {trace}
    finished = [record for record in records if record["event"] == "attempt.finished"]
    assert [(r["verdict"], r["reason"], r["blame"], r["severity"]) for r in finished] == [
        ("retry", "http_500", "downstream", "WARNING"),
        ("retry", "http_503", "downstream", "WARNING"),
        ("succeeded", None, None, "INFO"),
    ]
    for record, attempt in zip(finished, document["attempts"], strict=True):
        same = ("attempt", "task_name", "latency_ms", "verdict", "reason", "retry_delay_ms", "delay_reason")
        assert {name: record[name] for name in same} == {name: attempt[name] for name in same}
        assert record["logging.googleapis.com/spanId"] == attempt["span_id"]
        assert record["dispatch"]["task_retry_count"] == 0
        assert record["httpRequest"]["requestUrl"] == f"{downstream.url}/build"
    (last,) = (record for record in records if record["event"] == "task.finished")
    assert (last["state"], last["attempt_count"], last["total_ms"]) == ("succeeded", 3, document["total_ms"])
    assert "hush" not in json.dumps(records)


def test_a_call_that_never_succeeds_fails_after_its_last_attempt(relay: RunningRelay) -> None:
    with Downstream(503, 503, 503, 503) as downstream:
        receipt = enqueue(relay, downstream.url, retry=QUICKLY | {"max_attempts": 3})
        document = ended(relay, receipt)
        assert len(downstream.arrived) == 3
    assert (document["state"], document["reason"], document["blame"]) == ("failed", "http_503", "downstream")
    assert [attempt["verdict"] for attempt in document["attempts"]] == ["retry", "retry", "gave_up"]
    assert [attempt["retry_delay_ms"] for attempt in document["attempts"]] == [50, 100, None]
    assert document["response"]["status_code"] == 503


@pytest.mark.parametrize("status", [400, 404, 500, 302])
def test_what_may_not_be_repeated_is_not(relay: RunningRelay, status: int) -> None:
    with Downstream(status) as downstream:
        document = ended(relay, enqueue(relay, downstream.url, retry=QUICKLY))
        assert len(downstream.arrived) == 1
    reason = "redirect" if status == 302 else f"http_{status}"
    assert (document["state"], document["attempt"], document["reason"]) == ("failed", 1, reason)


@pytest.mark.parametrize(
    ("fields", "body", "content_type"),
    [
        ({"body": {"a": [1, 2.5, None], "ä": "ü"}}, '{"a":[1,2.5,null],"ä":"ü"}'.encode(), "application/json"),
        ({"body": None}, b"", None),
        ({"body": "grüß"}, "grüß".encode(), "text/plain; charset=utf-8"),
        ({"body": ""}, b"", "text/plain; charset=utf-8"),
        ({"body_base64": base64.b64encode(b"\x00\xff\r\n").decode()}, b"\x00\xff\r\n", "application/octet-stream"),
        ({"body": "<x/>", "headers": {"Content-Type": "text/xml"}}, b"<x/>", "text/xml"),
        ({}, b"", None),
    ],
)
def test_the_body_arrives_byte_for_byte(
    relay: RunningRelay, downstream: Downstream, fields: dict[str, Any], body: bytes, content_type: str | None
) -> None:
    receipt = enqueue(relay, f"{downstream.url}/x?a=%2F&b=c", **fields)
    (arrived,) = downstream.wait_for(1)
    assert (arrived.method, arrived.path, arrived.body) == ("POST", "/x?a=%2F&b=c", body)
    assert arrived.headers.get("content-type") == content_type
    assert arrived.headers["idempotency-key"] == receipt["task_id"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_every_method_is_relayed(relay: RunningRelay, downstream: Downstream, method: str) -> None:
    document = ended(relay, enqueue(relay, downstream.url, method=method))
    assert (document["state"], downstream.arrived[0].method) == ("succeeded", method)


@pytest.mark.parametrize("said", [None, False, True])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "POST", "PATCH"])
def test_a_method_or_the_caller_decides_what_is_retried(relay: RunningRelay, method: str, said: bool | None) -> None:
    may_repeat = method not in ("POST", "PATCH") if said is None else said
    fields = {} if said is None else {"idempotent": said}
    with Downstream(500) as downstream:
        document = ended(relay, enqueue(relay, downstream.url, method=method, retry=QUICKLY, **fields))
    assert (document["state"], document["attempt"]) == (("succeeded", 2) if may_repeat else ("failed", 1))
    assert (500 in document["retry"]["retryable_status_codes"]) is may_repeat


def test_the_answer_is_kept_up_to_64_kib(relay: RunningRelay) -> None:
    def long(_: Arrived) -> Response:
        return Response(b"\xfe" + b"x" * 100_000, headers={"X-Made-By": "test", "Set-Cookie": "a=b"})

    with Downstream(long) as downstream:
        response = ended(relay, enqueue(relay, downstream.url))["response"]
    assert (response["status_code"], response["truncated"]) == (200, True)
    assert base64.b64decode(response["body_base64"]) == b"\xfe" + b"x" * (64 * 1024 - 1)
    assert response["headers"]["x-made-by"] == "test"
    assert "set-cookie" not in response["headers"]


def test_retry_after_is_a_floor_under_the_wait(timeless: RunningRelay, clock: ManualClock) -> None:
    with Downstream(Response(status=503, headers={"Retry-After": "3600"})) as downstream:
        receipt = enqueue(timeless, downstream.url)
        timeless.wait_for("attempt.finished", receipt["task_id"])
        document = get(receipt["links"]["status"]).document
        (attempt,) = document["attempts"]
        assert (document["state"], attempt["retry_delay_ms"], attempt["delay_reason"]) == (
            "waiting",
            3_600_000,
            "retry_after",
        )
        assert timeless.queue.wait_until_idle(10)
        clock.advance(3599)
        assert timeless.queue.wait_until_idle(10)
        assert len(downstream.arrived) == 1
        clock.advance(2)
        downstream.wait_for(2)
        assert ended(timeless, receipt)["state"] == "succeeded"


def test_a_call_waits_for_its_day(timeless: RunningRelay, downstream: Downstream, clock: ManualClock) -> None:
    receipt = enqueue(timeless, downstream.url, delay="30d")
    assert timeless.queue.wait_until_idle(10)
    clock.advance(30 * DAY - 1)
    assert timeless.queue.wait_until_idle(10)
    assert downstream.arrived == []
    clock.advance(1)
    document = ended(timeless, receipt)
    assert (document["state"], document["total_ms"]) == ("succeeded", 0)


def test_a_wait_of_thirty_days_is_kept_to_the_second(timeless: RunningRelay, clock: ManualClock) -> None:
    began, policy = clock.now(), {"min_backoff": "30d", "max_backoff": "30d", "jitter": "none", "max_attempts": 3}
    with Downstream(503, 503) as downstream:
        receipt = enqueue(timeless, downstream.url, retry=policy)
        for number in (1, 2):
            assert timeless.records.wait_for("attempt.finished", receipt["task_id"], 10, nth=number)
            assert timeless.queue.wait_until_idle(10)
            clock.advance(30 * DAY - 1)
            assert timeless.queue.wait_until_idle(10)
            assert len(downstream.arrived) == number
            clock.advance(1)
            downstream.wait_for(number + 1)
        document = ended(timeless, receipt)
    assert (document["state"], clock.now() - began) == ("succeeded", 60 * DAY)
    assert [attempt["retry_delay_ms"] for attempt in document["attempts"]] == [30 * DAY * 1000, 30 * DAY * 1000, None]


def test_a_duration_limit_ends_a_call_before_its_attempts_are_used_up(
    timeless: RunningRelay, clock: ManualClock
) -> None:
    policy = {"max_attempts": 100, "min_backoff": "40s", "max_retry_duration": "100s", "jitter": "none"}
    with Downstream(*[503] * 5) as downstream:
        receipt = enqueue(timeless, downstream.url, retry=policy)
        downstream.wait_for(1)
        timeless.wait_for("attempt.finished", receipt["task_id"])
        assert timeless.queue.wait_until_idle(10)
        clock.advance(41)
        document = ended(timeless, receipt)
    assert (document["state"], document["reason"], document["attempt"]) == ("failed", "http_503", 2)


def test_a_call_whose_time_ran_out_in_the_queue_expires(timeless: RunningRelay, clock: ManualClock) -> None:
    policy = {"min_backoff": "40s", "max_retry_duration": "100s", "jitter": "none"}
    with Downstream(503) as downstream:
        receipt = enqueue(timeless, downstream.url, retry=policy)
        timeless.wait_for("attempt.finished", receipt["task_id"])
        assert timeless.queue.wait_until_idle(10)
        clock.advance(101)
        document = ended(timeless, receipt)
        assert len(downstream.arrived) == 1
    assert (document["state"], document["reason"], document["blame"]) == ("failed", "expired", "relay")


def test_a_key_makes_a_call_repeatable(relay: RunningRelay, downstream: Downstream) -> None:
    key = {"Idempotency_Key": "order-17"}
    first = enqueue(relay, downstream.url, body={"a": 1, "b": 2}, sent=key)
    ended(relay, first)
    again = enqueue(relay, downstream.url, body={"b": 2, "a": 1}, sent=key)
    assert again == first | {"state": "succeeded"}
    other = post(f"{relay.url}/v1/tasks", {"url": downstream.url, "body": 5}, **key)
    assert (other.status, other.document["errors"][0]["field"]) == (422, "Idempotency-Key")
    assert len(downstream.arrived) == 1
    assert [r["event"] for r in relay.records.records(first["task_id"])].count("task.enqueued") == 1


def test_a_batch_answers_every_item_in_its_place(relay: RunningRelay, downstream: Downstream) -> None:
    tasks = [{"url": downstream.url}, {"url": "nonsense"}, 5, {"url": downstream.url, "labels": {"n": "4"}}]
    answer = post(f"{relay.url}/v1/tasks:batch", {"tasks": tasks})
    assert answer.status == 200
    first, second, third, fourth = answer.document["tasks"]
    assert (second["status"], second["errors"][0]["field"], third["status"]) == (422, "url", 422)
    assert {ended(relay, receipt)["state"] for receipt in (first, fourth)} == {"succeeded"}


@pytest.mark.parametrize("document", [{}, {"tasks": {}}, {"tasks": [{}] * 101}, {"tasks": [], "more": 1}, []])
def test_a_batch_that_is_none_is_refused_whole(relay: RunningRelay, document: Any) -> None:
    assert post(f"{relay.url}/v1/tasks:batch", document).status == 422


def test_a_direct_call_is_made_by_the_queue_itself(relay: RunningRelay, downstream: Downstream) -> None:
    receipt = enqueue(relay, f"{downstream.url}/direct", route="direct", body={"a": 1}, sent={"traceparent": CALLER})
    (arrived,) = downstream.wait_for(1)
    assert (arrived.path, arrived.body) == ("/direct", b'{"a":1}')
    assert arrived.headers["x-cloudtasks-taskname"] == f"{receipt['task_id']}-1"
    assert arrived.headers["user-agent"] == "Google-Cloud-Tasks"
    assert arrived.headers["traceparent"].split("-")[1] == CALLER.split("-")[1]
    assert get(f"{relay.url}/v1/tasks/{receipt['task_id']}").status == 404


def test_the_list_is_newest_first_filtered_and_paged(downstream: Downstream) -> None:
    with RunningRelay() as relay, Downstream(*[404] * 10) as broken:
        good = [enqueue(relay, downstream.url, labels={"team": f"t{n % 2}"})["task_id"] for n in range(5)]
        bad = [enqueue(relay, broken.url)["task_id"] for _ in range(2)]
        for task_id in good + bad:
            relay.wait_for("task.finished", task_id)

        def listed(query: str) -> list[str]:
            ids, token = [], ""
            while token is not None:
                page = get(f"{relay.url}/v1/tasks?limit=2&{query}&{token and f'page_token={token}'}").document
                ids += [task["task_id"] for task in page["tasks"]]
                token = page["next_page_token"]
            return ids

        newest_first = (good + bad)[::-1]
        assert listed("") == newest_first
        assert listed("state=failed") == listed("reason=http_404") == bad[::-1]
        assert listed("state=succeeded&label.team=t1") == [good[3], good[1]]
        assert listed("queue=relay&rule=loopback&since=1h") == newest_first
        assert listed("since=2036-01-01T00:00:00Z") == listed("kind=callback") == listed("version=9") == []
        summary = get(f"{relay.url}/v1/tasks?limit=1").document["tasks"][0]
        whole = get(summary["links"]["status"]).document
        assert whole.keys() - summary.keys() == {"attempts", "response"}


def test_a_finished_task_is_there_after_a_restart(tmp_path: Path, downstream: Downstream) -> None:
    with RunningRelay(ledger=tmp_path / "ledger.db") as relay:
        before = ended(relay, enqueue(relay, downstream.url, body="x" * 1000))
    with RunningRelay(ledger=tmp_path / "ledger.db") as relay:
        after = get(f"{relay.url}/v1/tasks/{before['task_id']}").document
    ports = re.compile(r"127\.0\.0\.1:\d+/v1")
    assert ports.sub("", json.dumps(after)) == ports.sub("", json.dumps(before))


def test_a_key_makes_a_direct_call_repeatable_too(relay: RunningRelay, downstream: Downstream) -> None:
    key = {"Idempotency_Key": "direct-17"}
    call = {"url": downstream.url, "route": "direct", "body": "a"}
    first = enqueue(relay, **call, delay="1h", sent=key)
    assert enqueue(relay, **call, delay="1h", sent=key)["task_id"] == first["task_id"]
    other = post(f"{relay.url}/v1/tasks", call | {"body": "b", "delay": "1h"}, **key)
    assert (other.status, other.document["errors"][0]["field"]) == (422, "Idempotency-Key")


def test_two_deliveries_at_once_make_one_call(relay: RunningRelay) -> None:
    hang = Hanging(body="ok")
    headers = {"X-AppEngine-QueueName": "relay", "X-AppEngine-TaskName": "at-once"}
    with Downstream(hang) as downstream, ThreadPoolExecutor(6) as pool:
        body = json.dumps({"url": downstream.url}).encode()
        answers = [pool.submit(ask, "POST", f"{relay.url}/dispatch", body=body, headers=headers) for _ in range(6)]
        held = [answer.result() for answer in islice(as_completed(answers, 20), 5)]
        hang.release()
    assert {answer.status for answer in held} == {500}
    assert sorted(answer.result().status for answer in answers) == [200, *[500] * 5]
    assert len(downstream.arrived) == 1
    deferred = [r for r in relay.records.records(adopted_task_id(f"{QUEUE}/tasks/at-once")) if "deferred" in r["event"]]
    for record in deferred:
        validate(record)
    assert [record["reason"] for record in deferred] == ["held_by_another_worker"] * 5
