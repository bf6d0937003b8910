from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from standardwebhooks import Webhook
from werkzeug.wrappers import Response

from support.asking import ask, get, post
from support.hanging import Hanging
from support.storied import story
from traced_relay.tasks.ids import callback_id
from traced_relay.testing import Downstream, RunningRelay

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.whole

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
HURRIED = {"min_backoff": "0.01s", "max_backoff": "0.01s", "jitter": "none"}


@pytest.fixture
def receiver() -> Iterator[Downstream]:
    with Downstream(503) as running:
        yield running


@pytest.fixture(scope="module")
def relay() -> Iterator[RunningRelay]:
    with RunningRelay(callback_secret=SECRET) as running:
        yield running


def enqueued(relay: RunningRelay, url: str, receiver: Downstream, **changes: Any) -> dict[str, Any]:
    callback = {"url": f"{receiver.url}/told?token=private"}
    answer = post(f"{relay.url}/v1/tasks", {"url": url, "callback": callback, "retry": HURRIED} | changes)
    assert answer.status == 202, answer.document
    document: dict[str, Any] = answer.document
    return document


def status(relay: RunningRelay, task_id: str) -> dict[str, Any]:
    document: dict[str, Any] = get(f"{relay.url}/v1/tasks/{task_id}").document
    return document


def test_a_task_of_three_attempts_has_a_callback_of_two(relay: RunningRelay, receiver: Downstream) -> None:
    later = Response(status=503, headers={"Retry-After": "1"})
    with Downstream(503, later, Response("done", 200)) as downstream:
        task_id = enqueued(relay, downstream.url, receiver)["task_id"]
        first, second = receiver.wait_for(2)
        relay.wait_for("task.finished", callback_id(task_id, 1))
    document = status(relay, task_id)
    assert (document["state"], document["attempt"], document["retry_count"]) == ("succeeded", 3, 2)
    assert [attempt["delay_reason"] for attempt in document["attempts"]] == ["backoff", "retry_after", None]
    assert document["callback"] == {
        "state": "delivered",
        "attempt_count": 2,
        "next_attempt_at": None,
        "reason": None,
    }
    assert document["expires_at"] is not None
    told = json.loads(first.body)
    assert (told["type"], told["timestamp"]) == ("task.succeeded", document["finished_at"])
    assert told["data"].keys() == document.keys() - {"attempts", "callback"}
    assert told["data"]["response"] == document["response"]
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == callback_id(task_id, 1)
    for arrived in (first, second):
        assert Webhook(SECRET).verify(arrived.body, dict(arrived.headers)) == told
        assert arrived.headers["traceparent"].split("-")[1] == document["trace_id"]
        assert "authorization" not in arrived.headers
    assert events(relay, task_id) == [
        ("task.enqueued", None),
        ("attempt.started", 1),
        ("attempt.finished", 1),
        ("attempt.started", 2),
        ("attempt.finished", 2),
        ("attempt.started", 3),
        ("attempt.finished", 3),
        ("task.finished", None),
    ]
    assert events(relay, callback_id(task_id, 1)) == [
        ("task.enqueued", None),
        ("attempt.started", 1),
        ("attempt.finished", 1),
        ("attempt.started", 2),
        ("attempt.finished", 2),
        ("task.finished", None),
    ]
    (send,) = [span for span in relay.spans.spans(document["trace_id"]) if span.name == "send relay"]
    siblings = [span.name for span in relay.spans.spans(document["trace_id"]) if span.parent_id == send.span_id]
    assert sorted(set(siblings)) == ["POST /dispatch", "process relay started", "process relay-callbacks started"]
    assert len(siblings) == 10
    assert "private" not in json.dumps(relay.records.records())
    assert "private" not in repr(relay.spans.spans(document["trace_id"]))


def events(relay: RunningRelay, task_id: str) -> list[tuple[str, int | None]]:
    return [(record["event"], record.get("attempt")) for record in story(relay, task_id)]


def test_only_the_ends_that_were_asked_for_are_told(relay: RunningRelay, receiver: Downstream) -> None:
    with Downstream(404) as downstream:
        callback = {"url": receiver.url, "on": ["succeeded"]}
        receipt = enqueued(relay, downstream.url, receiver, callback=callback)
        relay.wait_for("task.finished", receipt["task_id"])
    assert status(relay, receipt["task_id"])["callback"]["state"] == "none"
    assert receiver.arrived == []


def test_a_large_answer_is_left_to_be_fetched(relay: RunningRelay) -> None:
    with Downstream(Response("x" * 30_000)) as downstream, Downstream() as receiver:
        receipt = enqueued(relay, downstream.url, receiver)
        (told,) = receiver.wait_for(1)
    response = json.loads(told.body)["data"]["response"]
    assert (response["status_code"], response["truncated"], "body" in response) == (200, True, False)
    assert len(told.body) < 20_000
    assert len(status(relay, receipt["task_id"])["response"]["body"]) == 30_000


def test_a_receiver_that_is_gone_is_told_no_more(relay: RunningRelay) -> None:
    with Downstream() as downstream, Downstream(410) as receiver:
        receipt = enqueued(relay, downstream.url, receiver)
        relay.wait_for("task.finished", callback_id(receipt["task_id"], 1))
        assert len(receiver.arrived) == 1
    callback = status(relay, receipt["task_id"])["callback"]
    assert (callback["state"], callback["reason"]) == ("failed", "http_410")


def test_a_callback_is_sent_again_with_the_same_id_and_body(relay: RunningRelay) -> None:
    hang = Hanging()  # the second delivery is in progress until the response has been read
    with Downstream() as downstream, Downstream(410, hang) as receiver:
        receipt = enqueued(relay, downstream.url, receiver)
        task_id = receipt["task_id"]
        relay.wait_for("task.finished", callback_id(task_id, 1))
        again = ask("POST", f"{relay.url}/v1/tasks/{task_id}:resend-callback")
        assert (again.status, again.document["callback"]["state"]) == (202, "pending")
        assert again.document["expires_at"] is None
        hang.release()
        first, second = receiver.wait_for(2)
        assert len(downstream.arrived) == 1
    assert (first.body, first.headers["webhook-id"]) == (second.body, second.headers["webhook-id"])


def test_what_has_no_callback_or_a_pending_one_is_not_sent_again(relay: RunningRelay) -> None:
    with Downstream() as downstream, Downstream(*[503] * 9) as receiver:
        without = post(f"{relay.url}/v1/tasks", {"url": downstream.url}).document["task_id"]
        relay.wait_for("task.finished", without)
        pending = enqueued(relay, downstream.url, receiver)["task_id"]
        receiver.wait_for(1)
        for task_id in (without, pending):
            assert ask("POST", f"{relay.url}/v1/tasks/{task_id}:resend-callback").status == 409


def test_callbacks_are_listed_by_their_kind(relay: RunningRelay) -> None:
    listed = get(f"{relay.url}/v1/tasks?kind=callback&limit=1").document["tasks"]
    assert [(task["kind"], task["queue"], task["callback"]["state"]) for task in listed] == [
        ("callback", "relay-callbacks", "none")
    ]


def test_each_round_is_told_by_a_callback_of_its_own(relay: RunningRelay) -> None:
    with Downstream(404, 404) as downstream, Downstream() as receiver:
        task_id = enqueued(relay, downstream.url, receiver)["task_id"]
        relay.wait_for("task.finished", callback_id(task_id, 1))
        assert ask("POST", f"{relay.url}/v1/tasks/{task_id}:redrive").status == 202
        relay.wait_for("task.finished", callback_id(task_id, 2))
        told = receiver.wait_for(2)
    assert [arrived.headers["webhook-id"] for arrived in told] == [callback_id(task_id, 1), callback_id(task_id, 2)]
    assert [json.loads(arrived.body)["data"]["round"] for arrived in told] == [1, 2]
