"""Odd ways to give a field, a header or a coding: each is what the contract says, or refused in its words."""

from __future__ import annotations

import gzip
import json
from contextlib import closing
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.asking import Answer, ask, get, post
from support.schema import validate
from traced_relay.tasks.ids import adopted_task_id
from traced_relay.testing import RunningRelay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traced_relay.testing import Downstream

URL = "http://127.0.0.1:9/"
QUEUE = "projects/test-project/locations/us-central1/queues/relay"
JSON = {"content-type": "application/json"}
NOT_A_KEY = "must be 1 to 255 printable ASCII characters, quoted or bare"
NULLS = {
    **dict.fromkeys(("method", "headers", "body", "body_base64", "queue", "route", "schedule_time", "delay")),
    **dict.fromkeys(("timeout", "retry", "idempotent", "callback", "labels")),
}
POLICY = dict.fromkeys(
    [
        *("max_attempts", "max_retry_duration", "min_backoff", "max_backoff", "max_doublings", "jitter"),
        "retryable_status_codes",
    ]
)


@pytest.fixture(scope="module")
def relay() -> Iterator[RunningRelay]:
    with RunningRelay() as running:
        yield running


def enqueue(relay: RunningRelay, wish: dict[str, Any], **headers: str) -> Answer:
    answer = post(f"{relay.url}/v1/tasks", wish, **headers)
    assert answer.status == 202, answer.document
    return answer


def shown(relay: RunningRelay, wish: dict[str, Any]) -> dict[str, Any]:
    """What the status says of the wish, without what differs between two equal ones."""
    document: dict[str, Any] = get(enqueue(relay, wish | {"delay": "1h"}).document["links"]["status"]).document
    names = ("url", "method", "labels", "rule", "retry", "state", "queue")
    return {name: document[name] for name in names} | {"callback": document["callback"]["state"]}


@pytest.mark.parametrize(
    ("nulls", "plain"),
    [
        (NULLS, {}),
        *(({name: None}, {}) for name in NULLS),
        ({"retry": POLICY}, {"retry": {}}),
        ({"retry": {"max_attempts": None, "jitter": "none"}}, {"retry": {"jitter": "none"}}),
        ({"callback": {"url": URL, "on": None}}, {"callback": {"url": URL}}),
        ({"labels": {"team": None, "a": "b"}}, {"labels": {"a": "b"}}),
        ({"headers": {"x-a": None, "host": None}}, {"headers": {}}),
        ({"route": None, "retry": None, "body": None, "method": "GET"}, {"method": "GET"}),
    ],
)
def test_null_is_the_same_as_not_given(relay: RunningRelay, nulls: dict[str, Any], plain: dict[str, Any]) -> None:
    assert shown(relay, {"url": URL} | nulls) == shown(relay, {"url": URL} | plain)


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"url": None}, "url"),
        ({"url": URL, "surprise": None}, "surprise"),
        ({"url": URL, "retry": {"tries": None}}, "retry.tries"),
        ({"url": URL, "callback": {"url": None}}, "callback.url"),
        ({"url": URL, "callback": {"url": URL, "on": ["failed", None]}}, "callback.on.1"),
        ({"url": URL, "retry": {"retryable_status_codes": [None]}}, "retry.retryable_status_codes.0"),
    ],
)
def test_null_gives_no_required_field_name_or_item(relay: RunningRelay, wish: dict[str, Any], field: str) -> None:
    refused = post(f"{relay.url}/v1/tasks", wish)
    (item,) = post(f"{relay.url}/v1/tasks:batch", {"tasks": [wish]}).document["tasks"]
    for problem in (refused.document, item):
        assert (problem["status"], [error["field"] for error in problem["errors"]]) == (422, [field])


@pytest.mark.parametrize(
    ("wish", "body", "content_type"),
    [
        ({"body": None}, b"", None),
        ({"body": None, "body_base64": "YQ=="}, b"a", "application/octet-stream"),
        ({"body": "a", "body_base64": None}, b"a", "text/plain; charset=utf-8"),
        ({"body": {"a": None}}, b'{"a":null}', "application/json"),
        ({"body": [None]}, b"[null]", "application/json"),
        ({"body": "null", "headers": {"content-type": "application/json"}}, b"null", "application/json"),
        ({"body": None, "headers": {"content-type": None, "x-a": "b"}}, b"", None),
    ],
)
def test_a_body_of_null_is_no_body(
    relay: RunningRelay, downstream: Downstream, wish: dict[str, Any], body: bytes, content_type: str | None
) -> None:
    wish = {"url": downstream.url} | wish
    receipts = [
        enqueue(relay, wish).document,
        *post(f"{relay.url}/v1/tasks:batch", {"tasks": [wish]}).document["tasks"],
        enqueue(relay, wish | {"route": "direct"}).document,
    ]
    assert len({receipt["task_id"] for receipt in receipts}) == 3
    arrived = downstream.wait_for(3)
    assert [(one.body, one.headers.get("content-type")) for one in arrived] == [(body, content_type)] * 3


def test_a_bare_task_takes_null_for_its_defaults(relay: RunningRelay, downstream: Downstream) -> None:
    names = ("method", "headers", "body", "content_type", "timeout", "unknown")
    bare = {"url": downstream.url} | dict.fromkeys(names)
    from_queue = {"X-AppEngine-QueueName": "relay", "X-AppEngine-TaskName": "bare-nulls"}
    assert ask("POST", f"{relay.url}/dispatch", body=json.dumps(bare).encode(), headers=from_queue).status == 200
    (arrived,) = downstream.arrived
    assert (arrived.method, arrived.body, arrived.headers["content-type"]) == ("POST", b"{}", "application/json")


def test_the_same_call_with_nulls_is_the_same_body(relay: RunningRelay) -> None:
    first = enqueue(relay, {"url": URL, "delay": "1h"}, Idempotency_Key="nulls")
    again = enqueue(relay, NULLS | {"url": URL, "delay": "1h", "retry": None}, Idempotency_Key="nulls")
    assert again.document == first.document


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "x-gzip", "GZIP", "gzip, identity", "identity,br", "new"])
@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/tasks:batch", f"/v1/tasks/{'0' * 32}:cancel"])
def test_a_content_coding_is_refused(relay: RunningRelay, path: str, coding: str) -> None:
    spans = len(relay.spans.spans())
    body = gzip.compress(json.dumps({"url": URL}).encode())
    answer = ask("POST", relay.url + path, body=body, headers=JSON | {"Content-Encoding": coding})
    assert (answer.status, answer.headers["content-type"]) == (415, "application/problem+json")
    assert answer.headers["accept-encoding"] == "identity"
    assert path.endswith("cancel") or len(relay.spans.spans()) == spans


@pytest.mark.parametrize("coding", ["identity", "", "Identity , identity", ","])
def test_identity_is_no_content_coding(relay: RunningRelay, coding: str) -> None:
    enqueue(relay, {"url": URL, "delay": "1h"}, Content_Encoding=coding)


def test_another_content_type_says_nothing_of_codings(relay: RunningRelay) -> None:
    answer = ask("POST", f"{relay.url}/v1/tasks", body=b"{}", headers={"content-type": "text/plain"})
    assert (answer.status, "accept-encoding" in answer.headers) == (415, False)


def test_a_coded_dispatch_is_rejected_for_good(relay: RunningRelay) -> None:
    from_queue = {"X-AppEngine-QueueName": "relay", "X-AppEngine-TaskName": "coded", "Content-Encoding": "gzip"}
    body = gzip.compress(json.dumps({"url": URL}).encode())
    answer = ask("POST", f"{relay.url}/dispatch", body=body, headers=from_queue)
    assert (answer.status, answer.document["reason"]) == (200, "rejected")
    assert get(f"{relay.url}/v1/tasks/{adopted_task_id(f'{QUEUE}/tasks/coded')}").status == 404


@pytest.mark.parametrize(("coding", "status"), [("gzip, chunked", 501), ("x, chunked", 501), ("chunked", 202)])
def test_a_transfer_coding_is_refused_unless_chunked(relay: RunningRelay, coding: str, status: int) -> None:
    wish = json.dumps({"url": URL, "delay": "1h"}).encode()
    content = b"%x\r\n%s\r\n0\r\n\r\n" % (len(wish), wish)
    assert sent(relay, "/v1/tasks", content, ("Transfer-Encoding", coding))[0] == status


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        (["k"], "k"),
        (['"k"'], "k"),
        (["k", "k"], "k"),
        (["k", '"k"'], "k"),
        (['"a,b"'], "a,b"),
        (['"a,b"', '"a,b"'], "a,b"),
        (['"a\\"b\\\\c"'], 'a"b\\c'),
        (['a"b'], 'a"b'),
        (['" k "'], " k "),
        (["k" * 255], "k" * 255),
        ([f'"{"k" * 255}"'], "k" * 255),
    ],
)
def test_a_key_is_the_same_bare_and_quoted(relay: RunningRelay, lines: list[str], key: str) -> None:
    quoted = '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    expected = keyed(relay, [quoted])
    assert expected[0] == 202
    assert keyed(relay, lines) == expected


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        *((lines, 400) for lines in (["a", "b"], ["a,b"], ["k", ""], ['"a"', '"b"'], ['"a"', "b"], ["k", "K"])),
        *(([line], 422) for line in ("", '""', '"', '"k', '"k"x', '"k";a=1', '"a\\b"', "k" * 256, "\xe9", "a\tb", ",")),
        ([f'"{"k" * 256}"'], 422),
    ],
)
def test_what_is_not_one_key_is_refused_whole(relay: RunningRelay, lines: list[str], status: int) -> None:
    for path, wish in (("/v1/tasks", {"url": URL}), ("/v1/tasks:batch", {"tasks": [{"url": URL}]})):
        answered, document = with_keys(relay, path, wish, lines)
        assert answered == status
        errors = [(error["field"], error["message"].partition(", got ")[0]) for error in document.get("errors", [])]
        assert errors == ([("Idempotency-Key", NOT_A_KEY)] if status == 422 else [])


BODIES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**350), 10**350) | st.floats() | st.text() | st.just("direct"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.sampled_from([*NULLS]), inner),
    max_leaves=10,
)
ODD = st.sampled_from(["", ',"body":1', ',"\\ud800":1', ',"body":"\\ud800"', ',"body":1e400', ',"url":1', ",", "\\"])


@pytest.mark.filterwarnings("ignore:Do not use the `random` module")  # threads of the relay do, meanwhile
@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from([*NULLS]), BODIES), ODD, st.sampled_from(["k", '"', "a,b", "\xff", '"k"']))
def test_no_wish_is_an_error_of_the_relays_own(relay: RunningRelay, wish: Any, odd: str, key: str) -> None:
    body = json.dumps({"url": URL, "delay": "1h"} | wish).removesuffix("}") + odd + "}"
    headers = JSON | {"Idempotency-Key": key}
    status = ask("POST", f"{relay.url}/v1/tasks", body=body.encode(), headers=headers).status
    assert status in (202, 400, 422)


def keyed(relay: RunningRelay, lines: list[str]) -> tuple[int, str]:
    status, document = with_keys(relay, "/v1/tasks", {"url": URL, "delay": "1h"}, lines)
    return status, document["task_id"]


def with_keys(relay: RunningRelay, path: str, wish: Any, lines: list[str]) -> tuple[int, dict[str, Any]]:
    body = json.dumps(wish).encode()
    keys = [("Idempotency-Key", line) for line in lines]
    return sent(relay, path, body, ("Content-Length", str(len(body))), *keys)


def sent(relay: RunningRelay, path: str, content: bytes, *lines: tuple[str, str]) -> tuple[int, dict[str, Any]]:
    """The answer to a request with exactly these header *lines*."""
    with closing(HTTPConnection(relay.url.removeprefix("http://"), timeout=20)) as connection:
        connection.putrequest("POST", path)
        for name, value in (*JSON.items(), *lines):
            connection.putheader(name, value)
        connection.endheaders(content)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def test_a_direct_call_has_no_status_to_link_to(relay: RunningRelay, downstream: Downstream) -> None:
    wish = {"url": f"{downstream.url}/direct", "route": "direct", "labels": {"team": "billing", "none": None}}
    answer = enqueue(relay, wish)
    receipt = answer.document
    (item,) = post(f"{relay.url}/v1/tasks:batch", {"tasks": [wish]}).document["tasks"]
    assert "location" not in answer.headers
    assert (receipt["links"]["status"], item["links"]["status"]) == (None, None)
    assert receipt["links"]["logs"]
    assert get(f"{relay.url}/v1/tasks/{receipt['task_id']}").status == 404
    (record,) = relay.records.records(receipt["task_id"])
    validate(record)
    assert (record["event"], record["route"], record["task_name"]) == ("task.enqueued", "direct", receipt["task_name"])
    assert record["logging.googleapis.com/trace"].endswith(receipt["trace_id"])
    assert record["logging.googleapis.com/operation"]["first"] is True
    assert record["logging.googleapis.com/labels"]["label.team"] == "billing"
    assert "label.none" not in record["logging.googleapis.com/labels"]


@pytest.mark.parametrize("field", [{"retry": {}}, {"callback": {"url": URL}}, {"idempotent": False}])
def test_what_needs_a_row_is_refused_with_a_direct_call(relay: RunningRelay, field: dict[str, Any]) -> None:
    answer = post(f"{relay.url}/v1/tasks", {"url": URL, "route": "direct"} | field)
    assert (answer.status, [error["field"] for error in answer.document["errors"]]) == (422, list(field))


def test_a_direct_call_with_a_key_gets_the_same_receipt(relay: RunningRelay) -> None:
    wish = {"url": URL, "route": "direct", "delay": "1h"}
    first = enqueue(relay, wish, Idempotency_Key="direct").document
    assert enqueue(relay, wish | {"retry": None}, Idempotency_Key="direct").document == first
    assert len(relay.records.records(first["task_id"])) == 1
    sends = [span.attributes for span in relay.spans.spans() if span.name == "send relay" and span.attributes]
    assert [attributes["messaging.message.id"] for attributes in sends].count(first["task_id"]) == 1
