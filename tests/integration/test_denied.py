from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from support.asking import get, post
from support.hostile_urls import CORPUS, Names
from support.loopback import Loopback
from support.schema import validate
from support.sending import no_token
from traced_relay.downstream.sender import Sender
from traced_relay.runtime.clock import SystemClock
from traced_relay.tasks.ids import adopted_task_id
from traced_relay.testing import RunningRelay

if TYPE_CHECKING:
    from collections.abc import Iterator

AUDIENCE, CALLER = "https://relay.example.com", "caller@p.iam.gserviceaccount.com"
QUEUE = "projects/test-project/locations/us-central1/queues/relay"
RULES = {
    "queues": [{"name": "relay", "max_dispatches_per_second": 500, "max_concurrent_dispatches": 100}],
    "worker": {"app_engine": "default"},
    "audience": AUDIENCE,
    "callers": [{"email": CALLER, "queues": "*", "downstreams": "*"}],
    "downstreams": [
        {"name": "http", "url": "http://*:*/", "auth": "none"},
        {"name": "https", "url": "https://*:*/", "auth": "none"},
        {"name": "http6", "url": "http://[::1]:*/", "auth": "none"},
    ],
}
OWN = [
    "https://relay.example.com/v1/tasks",
    "http://RELAY.example.com.:8080/",
    "https://test-project.uc.r.appspot.com/",
]


@pytest.fixture(scope="module")
def relay() -> Iterator[RunningRelay]:
    """A relay whose rules allow every host, none of them private, and whose names are those of the corpus."""
    with RunningRelay(rules=RULES, sender=Sender(SystemClock(), no_token, resolve=Names())) as running:
        yield running


def bearer(relay: RunningRelay) -> dict[str, str]:
    return {"Authorization": f"Bearer {relay.queue.token(CALLER, AUDIENCE)}"}


def ended(relay: RunningRelay, task_id: str) -> dict[str, Any]:
    relay.wait_for("task.finished", task_id)
    document: dict[str, Any] = get(f"{relay.url}/v1/tasks/{task_id}", **bearer(relay)).document
    return document


@pytest.mark.whole
def test_no_hostile_url_gets_through_the_whole_relay(relay: RunningRelay) -> None:
    refused, denied = [], []
    with Loopback() as loopback:
        for url in loopback.meant(CORPUS):
            answer = post(f"{relay.url}/v1/tasks", {"url": url, "retry": {"max_attempts": 1}}, **bearer(relay))
            if answer.status == 422:
                refused.append(url)
                continue
            document = ended(relay, answer.document["task_id"])
            assert document["reason"] in ("denied", "dns_failed", "connect_failed"), url
            denied.append(url)
        assert loopback.came == 0
    assert len(refused) >= 40
    assert len(denied) >= 40


@pytest.mark.parametrize("url", OWN)
def test_a_call_to_the_relay_itself_is_refused_at_enqueue(relay: RunningRelay, url: str) -> None:
    answer = post(f"{relay.url}/v1/tasks", {"url": url}, **bearer(relay))
    assert (answer.status, answer.document["errors"][0]["field"]) == (422, "url")


@pytest.mark.parametrize("url", OWN)
def test_a_bare_task_that_calls_the_relay_is_denied(relay: RunningRelay, url: str) -> None:
    with grpc.insecure_channel(relay.queue.address) as channel:
        client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
        request = {"relative_uri": "/dispatch", "body": json.dumps({"url": url}).encode()}
        name = client.create_task(parent=QUEUE, task={"app_engine_http_request": request}).name
    relay.wait_for("task.finished", adopted_task_id(name))
    records = relay.records.records(adopted_task_id(name))
    for record in records:
        validate(record)
    assert [(record["event"], record.get("reason")) for record in records][1:] == [
        ("downstream.denied", "denied"),
        ("attempt.finished", "denied"),
        ("task.finished", "denied"),
    ]
