from __future__ import annotations

import json
from typing import Any

import pytest

from support.asking import ask, get, post
from support.monitored_runs import WITH_CALLERS
from support.schema import validate
from traced_relay.testing import RunningRelay

URL = "http://127.0.0.1:9/"
WEEKS = "2036-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"url": None}, "url"),
        ({"url": "ftp://127.0.0.1/"}, "url"),
        ({"url": "/relative"}, "url"),
        ({"url": "http://user:secret@127.0.0.1/"}, "url"),
        ({"url": "http://127.0.0.1:99999/"}, "url"),
        ({"url": "http://127.0.0.1/a b"}, "url"),
        ({"url": "http://127.0.0.1/\u00e4"}, "url"),
        ({"url": "https://not-allowed.example/"}, "url"),
        ({"url": "http://127.0.0.1:9/" + "a" * 9000}, "url"),
        ({"method": "TRACE"}, "method"),
        ({"method": "post"}, "method"),
        ({"headers": {"Host": "x"}}, "headers.Host"),
        ({"headers": {"Authorization": "Bearer x"}}, "headers.Authorization"),
        ({"headers": {"Idempotency_Key": "x"}}, "headers.Idempotency_Key"),
        ({"headers": {"x-relay-traceparent": "x"}}, "headers.x-relay-traceparent"),
        ({"headers": {"X-AppEngine-QueueName": "x"}}, "headers.X-AppEngine-QueueName"),
        ({"headers": {"a b": "x"}}, "headers.a b"),
        ({"headers": {"a": "x\r\nb: y"}}, "headers.a"),
        ({"headers": {"a": "\u00e4"}}, "headers.a"),
        ({"headers": {"A": "1", "a": "2"}}, "headers.a"),
        ({"headers": {"a": 1}}, "headers.a"),
        ({"headers": {f"a{n}": "x" for n in range(51)}}, "headers"),
        ({"body": "x", "body_base64": "eA=="}, "body_base64"),
        ({"body_base64": "%"}, "body_base64"),
        ({"body": {"a": "\ud800"}}, "body"),
        ({"queue": "nowhere"}, "queue"),
        ({"route": "sideways"}, "route"),
        ({"schedule_time": WEEKS}, "schedule_time"),
        ({"schedule_time": "tomorrow"}, "schedule_time"),
        ({"schedule_time": 5}, "schedule_time"),
        ({"delay": "31d"}, "delay"),
        ({"delay": "-5s"}, "delay"),
        ({"delay": "1s", "schedule_time": "2026-11-21T18:00:00Z"}, "delay"),
        ({"timeout": "25h"}, "timeout"),
        ({"timeout": "0s"}, "timeout"),
        ({"timeout": 5}, "timeout"),
        ({"timeout": "9" * 400 + "s"}, "timeout"),
        ({"retry": {"max_attempts": 0}}, "retry.max_attempts"),
        ({"retry": {"max_attempts": True}}, "retry.max_attempts"),
        ({"retry": {"max_attempts": 1.5}}, "retry.max_attempts"),
        ({"retry": {"min_backoff": "10m"}}, "retry.max_backoff"),
        ({"retry": {"jitter": "some"}}, "retry.jitter"),
        ({"retry": {"tries": 1}}, "retry.tries"),
        ({"retry": {"retryable_status_codes": [200]}}, "retry.retryable_status_codes.0"),
        ({"idempotent": "yes"}, "idempotent"),
        (
            {"retry": {"min_backoff": "2h", "max_backoff": "2h", "jitter": "none", "max_retry_duration": "1h"}},
            "retry.max_retry_duration",
        ),
        ({"retry": {"min_backoff": "31d", "max_backoff": "31d", "jitter": "none"}}, "retry.min_backoff"),
        ({"callback": {"url": "https://example.com/"}}, "callback.url"),
        ({"labels": {"": "x"}}, "labels."),
        ({"labels": {"a": "x" * 257}}, "labels.a"),
        ({"labels": {"a": "\n"}}, "labels.a"),
        ({"labels": {"a": "\ud800"}}, "labels.a"),
        ({"labels": {f"k{n}": "x" for n in range(17)}}, "labels"),
        ({"surprise": 1}, "surprise"),
        ({"route": "direct", "retry": {}}, "retry"),
        ({"route": "direct", "idempotent": True}, "idempotent"),
        ({"route": "direct", "timeout": "31m"}, "timeout"),
        ({"route": "direct", "method": "GET", "body": "x"}, "body"),
    ],
)
def test_a_broken_rule_names_its_field(relay: RunningRelay, changes: dict[str, Any], field: str) -> None:
    document = {key: value for key, value in ({"url": URL} | changes).items() if value is not None}
    answer = post(f"{relay.url}/v1/tasks", document)
    assert answer.status == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "detail", "errors"} == answer.document.keys()
    assert field in [error["field"] for error in answer.document["errors"]]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"url": "' + b"\xff" + b'"}',
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"body": ' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"body": ' + b"1" * 5000 + b"}",
        b'{"body": 1e999}',
        b'{"body": NaN}',
        b'{"url": "http://a/", "url": "http://b/"}',
        b'{"\\ud800": 1}',
    ],
    ids=range(12),
)
def test_content_that_is_not_json_is_a_400(relay: RunningRelay, body: bytes) -> None:
    answer = ask("POST", f"{relay.url}/v1/tasks", body=body, headers={"content-type": "application/json"})
    assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")


@pytest.mark.parametrize("document", [None, 5, "x", [], True])
def test_json_other_than_an_object_is_a_422(relay: RunningRelay, document: Any) -> None:
    assert post(f"{relay.url}/v1/tasks", document).status == 422


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_another_content_type_is_a_415(relay: RunningRelay, content_type: str) -> None:
    headers = {"content-type": content_type}
    assert ask("POST", f"{relay.url}/v1/tasks", body=b"{}", headers=headers).status == 415


def test_a_request_over_900_kb_is_a_413(relay: RunningRelay) -> None:
    assert post(f"{relay.url}/v1/tasks", {"url": URL, "body": "x" * 900_000}).status == 413


def test_an_invalid_idempotency_key_is_named(relay: RunningRelay) -> None:
    answer = post(f"{relay.url}/v1/tasks", {"url": URL}, Idempotency_Key="x" * 256)
    assert [error["field"] for error in answer.document["errors"]] == ["Idempotency-Key"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("state=lost", "state"),
        ("kind=job", "kind"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=x", "limit"),
        ("page_token=x", "page_token"),
        ("page_token=W10", "page_token"),
        ("since=yesterday", "since"),
        ("colour=red", "colour"),
        ("label.a=1&label.b=2", "label"),
        ("state=queued&state=failed", "state"),
        ("limit=1&limit=1", "limit"),
        ("label.a=1&label.a=2", "label.a"),
    ],
)
def test_a_wrong_filter_is_named(relay: RunningRelay, query: str, field: str) -> None:
    answer = get(f"{relay.url}/v1/tasks?{query}")
    assert (answer.status, [error["field"] for error in answer.document["errors"]]) == (422, [field])


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("GET", "/nowhere", 404, set()),
        ("PUT", "/v1/tasks", 405, {"GET", "HEAD", "POST"}),
        ("GET", "/v1/tasks:batch", 405, {"POST"}),
        ("DELETE", f"/v1/tasks/{'0' * 32}", 405, {"GET", "HEAD"}),
        ("POST", "/health", 405, {"GET", "HEAD"}),
    ],
)
def test_unknown_paths_and_methods_are_problems(
    relay: RunningRelay, method: str, path: str, status: int, allowed: set[str]
) -> None:
    answer = ask(method, relay.url + path)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
    assert set(filter(None, answer.headers.get("allow", "").split(", "))) == allowed


def test_an_unknown_path_is_a_404_without_a_record() -> None:
    with RunningRelay(rules=WITH_CALLERS) as relay:
        cursor, _ = relay.records.since(0)
        for path in ("/nowhere", "/.env", "/v1", "/v1task", "/sweep/", "/dispatch/x", "/static/x", "/health/"):
            answer = get(relay.url + path)
            assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json"), path
        said = [record["event"] for record in relay.records.since(cursor)[1]]
        assert [event for event in said if event != "relay.swept"] == []  # which it does by itself, and in its own time


def test_every_path_is_open_or_requires_authentication() -> None:
    with RunningRelay(rules=WITH_CALLERS) as relay:
        closed = set()
        for rule in relay.application.app.url_map.iter_rules():
            (method, *_) = sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
            status = ask(method, relay.url + rule.rule.replace("<task_id>", "0" * 32)).status
            assert rule.endpoint == "static" or status in (200, 401, 403), rule
            if status in (401, 403):
                closed.add(rule.rule.partition("<")[0])
    assert closed == {"/v1/tasks", "/v1/tasks:batch", "/v1/tasks/", "/v1/queues", "/sweep", "/dispatch"}


@pytest.mark.parametrize("task_id", ["0" * 32, "x", "%00", "..%2f..", "'--"])
def test_an_unknown_task_is_a_404(relay: RunningRelay, task_id: str) -> None:
    assert get(f"{relay.url}/v1/tasks/{task_id}").status == 404


@pytest.mark.parametrize(
    "path",
    ["/v1/tasks", "/v1/tasks:batch", "/dispatch", "/health", "/ready", "/openapi.json", "/_ah/start", "/nowhere"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_foreign_host_is_refused_everywhere(relay: RunningRelay, method: str, path: str) -> None:
    from_queue = {"X-AppEngine-QueueName": "relay", "X-AppEngine-TaskName": "t"}
    cursor, _ = relay.records.since(0)
    answer = ask(method, relay.url + path, body=b"{}", headers={"Host": "rebound.example:80"} | from_queue)
    assert (answer.status, answer.document["detail"]) == (
        403,
        "Host: must be localhost, 127.0.0.1 or [::1] on a local relay, got 'rebound.example:80'",
    )
    _, (record,) = relay.records.since(cursor)
    validate(record)
    event = "dispatch.rejected" if path == "/dispatch" else "enqueue.rejected"
    assert (record["event"], record["reason"]) == (event, "foreign_host")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("POST", path) for path in ("/v1/tasks", "/v1/tasks:batch", "/nowhere")),
        *(("POST", f"/v1/tasks/{'0' * 32}:{verb}") for verb in ("cancel", "redrive", "resend-callback")),
        ("GET", "/sweep"),
    ],
)
def test_a_cross_site_request_changes_nothing(relay: RunningRelay, method: str, path: str) -> None:
    for marks in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        cursor, _ = relay.records.since(0)
        answer = ask(method, relay.url + path, headers=marks)
        assert (answer.status, answer.document["detail"]) == (
            403,
            "a web page of another site or port must not send this request",
        )
        assert answer.headers["content-type"] == "application/problem+json"
        (record,) = relay.records.since(cursor)[1]
        validate(record)
        assert record["reason"] == "foreign_site"


def test_a_cross_site_get_is_accepted(relay: RunningRelay) -> None:
    assert ask("GET", f"{relay.url}/v1/tasks", headers={"Sec-Fetch-Site": "cross-site"}).status == 200


def test_invalid_requests_create_nothing(relay: RunningRelay) -> None:
    assert get(f"{relay.url}/v1/tasks").document["tasks"] == []
    assert json.dumps(relay.records.records()).count("secret") == 0
    assert relay.spans.spans() == []


@pytest.mark.parametrize(
    ("headers", "wish"),
    [
        ({"Idempotency-Key": '"bad"SECRET'}, {}),
        ({}, {"method": "SECRET"}),
        ({}, {"timeout": "SECRET; SECRET"}),
        ({}, {"labels": {"a": "SECRET\n"}}),
        ({}, {"queue": "SECRET"}),
        ({}, {"url": "http://SECRET/?SECRET#SECRET"}),
        ({"Content-Type": "text/SECRET"}, {}),
        ({"Content-Encoding": "SECRET"}, {}),
        ({"Host": "SECRET"}, {}),
    ],
)
def test_no_value_of_a_refused_request_is_logged(
    relay: RunningRelay, headers: dict[str, str], wish: dict[str, Any]
) -> None:
    before = len(relay.records.records())
    named = {"Content-Type": "application/json"} | headers
    body = json.dumps({"url": "http://127.0.0.1:9/"} | wish).encode()
    answer = ask("POST", f"{relay.url}/v1/tasks", body=body, headers=named)
    assert answer.status in (400, 403, 415, 422)
    (record,) = relay.records.records()[before:]
    assert (record["event"], "SECRET" in json.dumps(record)) == ("enqueue.rejected", False)
