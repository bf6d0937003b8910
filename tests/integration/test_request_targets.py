"""The target that a caller gives, on every way that leads to a downstream."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from support.asking import get, post
from support.hostile_urls import PATHS
from support.raw_downstream import OK, RawDownstream, says
from support.schema import validate
from traced_relay.relay.policy import AMBIGUOUS_PATH, NO_RULE
from traced_relay.tasks.ids import adopted_task_id, callback_id
from traced_relay.testing import RunningRelay

if TYPE_CHECKING:
    from collections.abc import Iterator

QUEUE = "projects/test-project/locations/us-central1/queues/relay"
ANSWER = says(OK, b"Content-Length: 0\r\n\r\n")
PUBLIC = {"name": "public", "url": "http://127.0.0.1:*/public/", "auth": "none", "allow_private": True}
RULES = {
    "queues": [{"name": "relay", "max_dispatches_per_second": 500, "max_concurrent_dispatches": 100}],
    "worker": {"app_engine": "default"},
    "audience": "https://relay.example.com",
    "callers": [{"email": "a@example.com", "queues": "*", "downstreams": "*"}],
    "downstreams": [PUBLIC],
}
AWKWARD = "/%61/%2c//.hidden/a;b=c/x.?ids%5B%5D=1&sig=aZ%2f%3d&empty=&?"
RAW = '/[x]|{y}"<z>^`/./a/../b?ids[]=1|2'


@pytest.fixture(scope="module")
def strict() -> Iterator[RunningRelay]:
    """A relay whose one rule has a path."""
    with RunningRelay(rules=RULES) as running:
        yield running


def bearer(relay: RunningRelay) -> dict[str, str]:
    return {"Authorization": f"Bearer {relay.queue.token('a@example.com', 'https://relay.example.com')}"}


def make_by_hand(relay: RunningRelay, *urls: str) -> list[str]:
    """The ids of bare tasks for *urls*."""
    with grpc.insecure_channel(relay.queue.address) as channel:
        client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
        bodies = [json.dumps({"url": url}).encode() for url in urls]
        requests: list[Any] = [{"relative_uri": "/dispatch", "body": body} for body in bodies]
        made = [client.create_task(parent=QUEUE, task={"app_engine_http_request": request}) for request in requests]
    return [adopted_task_id(task.name) for task in made]


def targets(downstream: RawDownstream) -> list[str]:
    return [request.split(b" ")[1].decode() for request in downstream.requests]


@pytest.mark.parametrize("target", [AWKWARD, RAW, "?x", "/x?"])
def test_wire_status_and_record_agree_on_the_target(relay: RunningRelay, target: str) -> None:
    with RawDownstream(ANSWER) as downstream:
        url = f"http://127.0.0.1:{downstream.port}{target}"
        receipt = post(f"{relay.url}/v1/tasks", {"url": url}).document
        relay.wait_for("task.finished", receipt["task_id"])
        status = get(receipt["links"]["status"]).document
        record = relay.wait_for("attempt.finished", receipt["task_id"])
    validate(record)
    assert targets(downstream) == [target if target.startswith("/") else f"/{target}"]
    assert (status["url"], record["httpRequest"]["requestUrl"]) == (url, url.partition("?")[0])


@pytest.mark.parametrize("route", ["direct", "relay"])
def test_both_routes_send_the_target_byte_for_byte(relay: RunningRelay, route: str) -> None:
    with RawDownstream(ANSWER) as downstream:
        url = f"http://127.0.0.1:{downstream.port}{AWKWARD}"
        assert post(f"{relay.url}/v1/tasks", {"url": url, "route": route}).status == 202
        assert downstream.closed.wait(10)
    assert targets(downstream) == [AWKWARD]


@pytest.mark.parametrize(
    "target", ["/[x]", "/a|b", "/?a={}", "/a/../b", "/%2e/a", "/..", '/"', "/a\\b", "/?a^b", "/./?x"]
)
def test_a_direct_call_may_not_have_what_cloud_tasks_rewrites(relay: RunningRelay, target: str) -> None:
    answer = post(f"{relay.url}/v1/tasks", {"url": f"http://127.0.0.1:9{target}", "route": "direct"})
    assert (answer.status, [error["field"] for error in answer.document["errors"]]) == (422, ["url"])
    assert "Cloud Tasks may rewrite" in answer.document["detail"]


def test_a_callback_goes_to_its_target_byte_for_byte(relay: RunningRelay) -> None:
    with RawDownstream(ANSWER) as downstream, RawDownstream(ANSWER) as receiver:
        url, back = (f"http://127.0.0.1:{server.port}{RAW}" for server in (downstream, receiver))
        receipt = post(f"{relay.url}/v1/tasks", {"url": url, "callback": {"url": back}}).document
        relay.wait_for("task.finished", callback_id(receipt["task_id"], 1))
    assert targets(receiver) == [RAW]


def test_a_bare_task_goes_to_its_target_byte_for_byte(relay: RunningRelay) -> None:
    with RawDownstream(ANSWER) as downstream:
        [task_id] = make_by_hand(relay, f"http://127.0.0.1:{downstream.port}{RAW}")
        relay.wait_for("task.finished", task_id)
    assert targets(downstream) == [RAW]


def test_no_hostile_path_gets_past_a_rule_on_any_way(strict: RunningRelay) -> None:
    with RawDownstream(ANSWER) as downstream:
        urls = [f"http://127.0.0.1:{downstream.port}{path}" for path in PATHS.split()]
        answers = [post(f"{strict.url}/v1/tasks", {"url": url}, **bearer(strict)) for url in urls]
        assert {(answer.status, answer.document["errors"][0]["field"]) for answer in answers} == {(422, "url")}
        urls = [url for url in urls if "%u" not in url]
        for url, task_id in zip(urls, make_by_hand(strict, *urls), strict=True):
            record = strict.wait_for("downstream.denied", task_id)
            validate(record)
            is_plain = url.partition(str(downstream.port))[2] in ("/publicity", "/private", "/")
            assert (record["rule"], record["detail"]) == (None, NO_RULE if is_plain else AMBIGUOUS_PATH)
            finished = strict.wait_for("task.finished", task_id)
            assert (finished["state"], finished["reason"]) == ("failed", "denied")
        assert downstream.connections == 0


def test_a_denied_address_is_shown_only_to_the_operator() -> None:
    rules = RULES | {"downstreams": [{"name": "any", "url": "http://*:*/", "auth": "none"}]}
    with RunningRelay(rules=rules) as public:
        receipt = post(f"{public.url}/v1/tasks", {"url": "http://0x0a000007/"}, **bearer(public)).document
        record = public.wait_for("downstream.denied", receipt["task_id"])
        public.wait_for("task.finished", receipt["task_id"])
        status = get(receipt["links"]["status"], **bearer(public)).document
    validate(record)
    assert record["detail"] == (
        "the host has an address in 10.0.0.0/8 (private), and its rule has no allow_private: true"
    )
    assert (status["reason"], "10." in json.dumps(status), "private" in json.dumps(status)) == ("denied", False, False)
