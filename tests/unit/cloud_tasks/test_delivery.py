from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import Headers

from support.example_rows import NOW, TASK_ID
from traced_relay.cloud_tasks.delivery import APP_ENGINE, HTTP_TARGET, BareTask, Dispatch, RelayTask, read_task
from traced_relay.errors import InvalidCall
from traced_relay.tasks.call import Call, RetryPolicy
from traced_relay.tasks.ids import adopted_task_id

POLICY = RetryPolicy()
URL = "https://reports.example.com/build"


@pytest.mark.parametrize(
    ("family", "headers", "expected"),
    [
        (
            HTTP_TARGET,
            {
                "X-Cloudtasks-Queuename": "relay",
                "X-Cloudtasks-Taskname": "abc-1",
                "X-Cloudtasks-Taskretrycount": "2",
                "X-Cloudtasks-Taskexecutioncount": "1",
                "X-Cloudtasks-Tasketa": "1721236265.266817",
                "X-Cloudtasks-Taskpreviousresponse": "504",
                "X-Cloudtasks-Taskretryreason": "",
            },
            Dispatch("relay", "abc-1", 2, 1, 1721236265.266817, 504, None),
        ),
        (
            APP_ENGINE,
            {
                "X-AppEngine-QueueName": "relay",
                "X-AppEngine-TaskName": "abc-1",
                "X-AppEngine-TaskRetryCount": "0",
                "X-AppEngine-TaskExecutionCount": "0",
                "X-AppEngine-TaskETA": "1721236265",
                "X-AppEngine-TaskPreviousResponse": "0",
                "X-AppEngine-TaskRetryReason": "App Error",
            },
            Dispatch("relay", "abc-1", 0, 0, 1721236265.0, 0, "App Error"),
        ),
        *((family, {}, Dispatch("", "")) for family in (APP_ENGINE, HTTP_TARGET)),
        (HTTP_TARGET, {"X-CloudTasks-QueueName": "relay", "X-CloudTasks-TaskName": "t"}, Dispatch("relay", "t")),
        (HTTP_TARGET, {"X-CloudTasks-TaskETA": "99999999999"}, Dispatch("", "")),
        (
            HTTP_TARGET,
            {
                "X-CloudTasks-TaskName": "t",
                "X-CloudTasks-TaskRetryCount": "-1",
                "X-CloudTasks-TaskExecutionCount": "1.0",
                "X-CloudTasks-TaskETA": "soon",
                "X-CloudTasks-TaskPreviousResponse": "9" * 5000,
                "X-CloudTasks-TaskRetryReason": "x" * 5000,
            },
            Dispatch("", "t", task_retry_reason="x" * 100),
        ),
    ],
)
def test_both_families_are_read_and_malformed_values_are_none(
    family: str, headers: dict[str, str], expected: Dispatch
) -> None:
    assert Dispatch.from_headers(Headers(headers), family) == expected


def test_the_other_family_of_headers_is_ignored() -> None:
    names = ("QueueName", "TaskName", "TaskRetryCount", "TaskETA", "TaskRetryReason")
    mixed = Headers([(f"{APP_ENGINE}{name}", "1") for name in names])
    mixed.extend((f"{HTTP_TARGET}{name}", "2") for name in names)
    assert Dispatch.from_headers(mixed, APP_ENGINE) == Dispatch("1", "1", 1, None, 1.0, None, "1")
    assert Dispatch.from_headers(mixed, HTTP_TARGET) == Dispatch("2", "2", 2, None, 2.0, None, "2")
    for family, other in ((APP_ENGINE, HTTP_TARGET), (HTTP_TARGET, APP_ENGINE)):
        alone = Headers([(f"{other}{name}", "1") for name in names])
        assert Dispatch.from_headers(alone, family) == Dispatch("", "")


@pytest.mark.parametrize(("eta", "delay"), [(NOW - 1.5, 1500), (NOW, 0), (NOW + 5, 0), (None, None)])
def test_the_queue_delay_counts_from_the_due_time(eta: float | None, delay: int | None) -> None:
    assert Dispatch("relay", "t", task_eta=eta).queue_delay_ms(NOW) == delay


def test_a_task_of_the_relay_is_read() -> None:
    for attempt in (1, 3, 10_000):
        body = json.dumps({"task_id": TASK_ID, "attempt": attempt}).encode()
        assert read_task(body) == RelayTask(TASK_ID, attempt)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        *((body, "the body is not JSON: ") for body in (b"", b"{", b"task", b"'", b"[1", b"{'url': 1}", b"NaN")),
        (b"\xff", "the body is not UTF-8: "),
        (b"[" * 100_000, "the body is nested deeper than 200 levels"),
        (b'{"url":' + b"1" * 5000 + b"}", "the body contains a number of more than 400 digits"),
        *(
            (json.dumps(document).encode(), "the body is neither the relay's own task nor a call with a url")
            for document in (
                *(None, 5, "text", [], {}, {"task_id": TASK_ID}, {"attempt": 1}, {"task_id": TASK_ID, "attempt": "1"}),
                *(
                    {"task_id": TASK_ID, "attempt": 0},
                    {"task_id": TASK_ID, "attempt": True},
                    {"task_id": 5, "attempt": 1},
                ),
                *({"task_id": TASK_ID.upper(), "attempt": 1}, {"task_id": TASK_ID, "attempt": 1, "x": 1}),
                *({"task_id": TASK_ID, "attempt": 1.0}, {"task_id": TASK_ID + "\n", "attempt": 1}),
            )
        ),
        (b'{"url": null}', "url is required"),
        (b'{"url": "ftp://a/"}', "url must start with http:// or https://"),
        (b'{"url": "http://a/", "method": "get"}', "method must be one of "),
        (b'{"url": "http://a/", "headers": {"a": 1}}', "headers.a must be a string"),
        (b'{"url": "http://a/", "body": "\\ud800"}', "body must be valid Unicode"),
        (b'{"url": "http://a/", "body": {"a": ["\\udfff"]}}', "body must be valid Unicode"),
    ],
    ids=range(31),
)
def test_a_body_without_a_task_is_refused(body: bytes, why: str) -> None:
    with pytest.raises(InvalidCall) as refused:
        read_task(body)
    assert refused.value.detail.startswith(why)


def made(max_timeout: float = 86_400.0, **fields: Any) -> Call:
    task = read_task(json.dumps({"url": URL} | fields).encode())
    assert isinstance(task, BareTask)
    return task.call(retry=POLICY, max_timeout=max_timeout)


PLAIN = Call(
    url=URL, headers={"content-type": "application/json"}, body=b"{}", timeout=43_200.0, retry=POLICY, method="POST"
)


@pytest.mark.parametrize(
    ("fields", "changes"),
    [
        ({}, {}),
        ({"task_id": TASK_ID, "attempt": 1}, {}),
        ({"surprise": 1, "method": None, "headers": None, "content_type": None, "timeout": None}, {}),
        ({"method": "PUT"}, {"method": "PUT", "idempotent": True}),
        ({"method": "PATCH", "idempotent": True}, {"method": "PATCH"}),
        ({"body": {"a": "é"}}, {"body": '{"a":"é"}'.encode()}),
        ({"body": "text"}, {"body": b"text"}),
        ({"body": None}, {}),
        ({"content_type": "text/csv; charset=utf-8"}, {"headers": {"content-type": "text/csv; charset=utf-8"}}),
        ({"headers": {"Content-Type": "a/b", "x": "1"}}, {"headers": {"Content-Type": "a/b", "x": "1"}}),
        ({"headers": {"x": "1"}}, {"headers": {"content-type": "application/json", "x": "1"}}),
        ({"timeout": 90}, {"timeout": 90.0}),
        ({"timeout": 1.5}, {"timeout": 1.5}),
        ({"timeout": 0.5}, {"timeout": 0.5}),
        ({"timeout": "5m"}, {"timeout": 300.0}),
        ({"timeout": "9999d"}, {"timeout": 86_400.0}),
    ],
)
def test_a_bare_task_is_a_call(fields: dict[str, Any], changes: dict[str, Any]) -> None:
    assert made(**fields) == PLAIN.changed(**changes)


def test_a_bare_tasks_timeout_is_limited_to_the_workers() -> None:
    assert made(max_timeout=1785.0).timeout == 1785.0


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"headers": {"Host": "b"}}, "headers.Host is set by the relay"),
        ({"headers": {"x": "\ud800"}}, "headers.x must be printable ASCII"),
        ({"content_type": "text/\nplain"}, "content_type must be printable ASCII"),
        ({"content_type": " text/plain"}, "content_type must be printable ASCII"),
        ({"content_type": ""}, "content_type must be printable ASCII"),
        ({"timeout": 0}, "timeout must be more than 0"),
        ({"timeout": -5}, "timeout must be more than 0"),
        ({"timeout": True}, "timeout must be more than 0"),
        ({"timeout": "soon"}, "timeout must be a duration"),
        ({"timeout": []}, "timeout must be a duration"),
        ({"timeout": 10**350}, "timeout "),
    ],
)
def test_a_bare_task_that_cannot_be_called_is_refused(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidCall) as refused:
        made(**fields)
    assert refused.value.detail.startswith(why)


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(alphabet=st.characters(exclude_categories=[]))
)
FIELDS = st.sampled_from(["url", "method", "headers", "body", "content_type", "timeout", "task_id", "attempt"])
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))


@given(
    st.binary()
    | st.dictionaries(FIELDS, VALUES).map(lambda fields: json.dumps({"url": URL} | fields).encode())
    | st.dictionaries(FIELDS, VALUES).map(lambda fields: json.dumps(fields).encode())
)
def test_no_bytes_raise_anything_but_invalid_call(body: bytes) -> None:
    with suppress(InvalidCall):
        task = read_task(body)
        if isinstance(task, BareTask):
            task.call(retry=POLICY, max_timeout=60)


def test_a_bare_task_keeps_its_id_at_each_delivery_of_one_queue() -> None:
    name = "projects/p/locations/l/queues/q/tasks/t"
    assert adopted_task_id(name) == adopted_task_id(name)
    assert adopted_task_id(name) != adopted_task_id(name.replace("queues/q", "queues/r"))
    assert RelayTask(adopted_task_id(name), 2) == read_task(
        json.dumps({"task_id": adopted_task_id(name), "attempt": 2}).encode()
    )
