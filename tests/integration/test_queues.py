"""The state of the queues over the API: the embedded queue's true numbers, and what is said without them."""

from __future__ import annotations

from threading import Event, Thread
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from support.asking import Answer, ask, get, post
from support.hanging import Hanging
from traced_relay.api import openapi
from traced_relay.client.client import Client
from traced_relay.cloud_tasks.client import QueueStats
from traced_relay.cloud_tasks.queue_status import FRESH_FOR, TIMEOUT, QueueStatuses
from traced_relay.errors import NotAuthorized, Unavailable
from traced_relay.runtime.clock import ManualClock
from traced_relay.testing import Downstream, RunningRelay

QUEUES = "projects/test-project/locations/us-central1/queues"
AUDIENCE = "https://relay.example.com"
RULES = {
    "queues": [
        {"name": "relay", "max_dispatches_per_second": 50, "max_concurrent_dispatches": 7},
        {"name": "told", "for": "callbacks", "max_dispatches_per_second": 0.5},
    ],
    "worker": {"app_engine": "default"},
    "audience": AUDIENCE,
    "callers": [
        {"email": "a@example.com", "queues": "*", "downstreams": "*"},
        {"email": "op@example.com", "role": "operator"},
    ],
}
UNKNOWN = {
    "state": None,
    "max_dispatches_per_second": None,
    "max_concurrent_dispatches": None,
    "tasks_count": None,
    "oldest_estimated_arrival_time": None,
    "executed_last_minute_count": None,
    "concurrent_dispatches_count": None,
}


def of_queue(relay: RunningRelay, verb: str, queue: str = "relay") -> None:
    assert post(f"{relay.queue.rest_url}/v2/{QUEUES}/{queue}:{verb}", {}).status == 200


def seen(relay: RunningRelay, clock: ManualClock) -> dict[str, Any]:
    """The queue for calls, as it is now."""
    clock.advance(FRESH_FOR)
    answer = get(f"{relay.url}/v1/queues")
    assert answer.status == 200
    schema = {"$ref": "#/components/schemas/QueueList", "components": openapi.document()["components"]}
    Draft202012Validator(schema).validate(answer.document)
    return dict(answer.document["queues"][0])


def enqueue(relay: RunningRelay, url: str, **fields: Any) -> str:
    return str(post(f"{relay.url}/v1/tasks", {"url": url} | fields).document["task_id"])


def as_operator(relay: RunningRelay, email: str = "op@example.com") -> Answer:
    return get(f"{relay.url}/v1/queues", authorization=f"Bearer {relay.queue.token(email, AUDIENCE)}")


def test_queue_statistics_are_those_of_the_queue(timeless: RunningRelay, clock: ManualClock) -> None:
    hanging = Hanging()
    with Downstream(200, hanging) as downstream:
        done = enqueue(timeless, downstream.url)
        timeless.wait_for("task.finished", done)
        assert timeless.queue.wait_until_idle(10)
        enqueue(timeless, downstream.url)
        downstream.wait_for(2)
        enqueue(timeless, downstream.url, schedule_time="2026-09-21T15:00:00Z")
        assert seen(timeless, clock) == {
            "queue": "relay",
            "for": "calls",
            "state": "RUNNING",
            "max_dispatches_per_second": 500,
            "max_concurrent_dispatches": 1000,
            "tasks_count": 2,
            "oldest_estimated_arrival_time": "2026-09-21T15:00:00.000000Z",
            "executed_last_minute_count": 1,
            "concurrent_dispatches_count": 1,
        }
        hanging.release()


def test_a_paused_queue_is_shown_as_paused_and_fills(timeless: RunningRelay, clock: ManualClock) -> None:
    of_queue(timeless, "pause")
    enqueue(timeless, "http://127.0.0.1:9/")
    queue = seen(timeless, clock)
    assert (queue["state"], queue["tasks_count"], queue["concurrent_dispatches_count"]) == ("PAUSED", 1, 0)
    of_queue(timeless, "purge")
    of_queue(timeless, "resume")
    queue = seen(timeless, clock)
    assert (queue["state"], queue["tasks_count"], queue["oldest_estimated_arrival_time"]) == ("RUNNING", 0, None)


def test_only_operators_see_the_queues() -> None:
    with RunningRelay(rules=RULES) as relay:
        queues = as_operator(relay).document["queues"]
        assert [(queue["queue"], queue["for"]) for queue in queues] == [("relay", "calls"), ("told", "callbacks")]
        assert [queue["max_dispatches_per_second"] for queue in queues] == [50, 0.5]
        refused = as_operator(relay, "a@example.com")
        assert (refused.status, refused.headers["content-type"]) == (403, "application/problem+json")
        assert refused.document["detail"] == "only operators may list the queues"
        assert as_operator(relay, "stranger@example.com").status == 403
        assert get(f"{relay.url}/v1/queues").status == 401


def test_the_client_lists_queues_for_operators_only() -> None:
    with RunningRelay(rules=RULES) as relay:
        client = Client(relay.url, id_token=lambda: relay.queue.token("op@example.com", AUDIENCE))
        assert [queue["state"] for queue in client.queues()] == ["RUNNING", "RUNNING"]
        client.close()
        caller = Client(relay.url, id_token=lambda: relay.queue.token("a@example.com", AUDIENCE))
        with pytest.raises(NotAuthorized):
            caller.queues()
        caller.close()


def test_a_deleted_queue_is_listed_without_numbers() -> None:
    with RunningRelay(rules=RULES) as relay:
        assert ask("DELETE", f"{relay.queue.rest_url}/v2/{QUEUES}/told").status == 200
        here, gone = as_operator(relay).document["queues"]
        assert (here["state"], here["tasks_count"]) == ("RUNNING", 0)
        detail = gone.pop("detail")
        assert gone == {"queue": "told", "for": "callbacks"} | UNKNOWN
        assert detail.startswith("Cloud Tasks refused: Queue does not exist.")


def test_queues_are_listed_while_cloud_tasks_is_unavailable(timeless: RunningRelay, clock: ManualClock) -> None:
    timeless.queue.stop()
    queue = seen(timeless, clock)
    assert queue.pop("detail").startswith("Cloud Tasks did not confirm the request: ")
    assert queue == {"queue": "relay", "for": "calls"} | UNKNOWN


def test_queue_statistics_are_cached_for_two_seconds(timeless: RunningRelay, clock: ManualClock) -> None:
    assert seen(timeless, clock)["state"] == "RUNNING"
    of_queue(timeless, "pause")
    clock.advance(FRESH_FOR - 0.1)
    assert get(f"{timeless.url}/v1/queues").document["queues"][0]["state"] == "RUNNING"
    clock.advance(0.1)
    assert get(f"{timeless.url}/v1/queues").document["queues"][0]["state"] == "PAUSED"


class Slow:
    """A queue that is looked at for as long as a test likes."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.looks = 0
        self.asked, self.answer = Event(), Event()
        self.answer.set()

    def get_queue_stats(self, queue: str, seconds: float) -> QueueStats:
        assert (queue, seconds <= TIMEOUT) == ("q", True)
        self.looks += 1
        self.asked.set()
        assert self.answer.wait(10)
        return QueueStats(state="RUNNING", tasks_count=self.looks)


def test_one_thread_refreshes_while_others_get_the_cached_status() -> None:
    clock = ManualClock()
    slow = Slow(clock)
    queues = QueueStatuses([("q", "calls")], slow.get_queue_stats, clock)
    assert queues.get()[0]["tasks_count"] == 1
    clock.advance(FRESH_FOR)
    slow.asked.clear()
    slow.answer.clear()
    looking = Thread(target=queues.get)
    looking.start()
    assert slow.asked.wait(10)
    assert [queues.get()[0]["tasks_count"] for _ in range(3)] == [1, 1, 1]
    slow.answer.set()
    looking.join(10)
    assert queues.get()[0]["tasks_count"] == slow.looks == 2


def test_concurrent_first_requests_share_one_fetch() -> None:
    clock = ManualClock()
    slow = Slow(clock)
    slow.answer.clear()
    queues = QueueStatuses([("q", "calls")], slow.get_queue_stats, clock)
    got: list[int] = []
    threads = [Thread(target=lambda: got.append(queues.get()[0]["tasks_count"])) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert slow.asked.wait(10)
    slow.answer.set()
    for thread in threads:
        thread.join(10)
    assert (got, slow.looks) == ([1] * 5, 1)


def test_a_hanging_queue_leaves_the_others_no_time() -> None:
    clock = ManualClock()

    def hang(_: str, seconds: float) -> QueueStats:
        clock.advance(seconds)
        raise Unavailable("Cloud Tasks did not confirm the request: DeadlineExceeded")

    first, second = QueueStatuses([("a", "calls"), ("b", "calls")], hang, clock).get()
    assert first["detail"] == "Cloud Tasks did not confirm the request: DeadlineExceeded"
    assert second == {"queue": "b", "for": "calls"} | UNKNOWN | {"detail": "it was not fetched in time"}
