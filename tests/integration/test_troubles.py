"""What a caller and a call see while something else is in trouble: the ledger, the queue, the clock."""

from __future__ import annotations

import errno
import socket
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Condition, Event
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from werkzeug.wrappers import Response

from support.asking import get, post
from support.schema import validate
from support.sending import no_token
from traced_relay.downstream.sender import Sender
from traced_relay.relay.commit import COMMIT_RETRY_DELAY
from traced_relay.runtime.clock import SystemClock
from traced_relay.testing import Downstream, RunningRelay

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from traced_relay.testing import Arrived


class PatientClock(SystemClock):
    """Tells when a commit failed, and has it tried again once the ledger is back."""

    def __init__(self) -> None:
        self.has_failed, self.is_back = Event(), Event()

    def wait(self, condition: Condition, seconds: float | None) -> None:
        if seconds != COMMIT_RETRY_DELAY:
            super().wait(condition, seconds)
            return
        self.has_failed.set()
        assert self.is_back.wait(10)


def test_a_success_outlives_a_ledger_that_is_away_when_it_comes(tmp_path: Path) -> None:
    clock, file = PatientClock(), tmp_path / "ledger.db"
    with closing(sqlite3.connect(file, check_same_thread=False, isolation_level=None)) as other:

        def take_the_ledger_away(_: Arrived) -> Response:
            other.execute("BEGIN IMMEDIATE")
            return Response("the answer")

        with RunningRelay(clock=clock, ledger=file) as relay, Downstream(take_the_ledger_away) as downstream:
            relay.application.ledger._db.execute("PRAGMA busy_timeout=20")  # it would wait for seconds
            receipt = post(f"{relay.url}/v1/tasks", {"url": downstream.url}).document
            assert clock.has_failed.wait(10)
            assert get(receipt["links"]["status"]).document["state"] == "running"
            other.execute("ROLLBACK")
            clock.is_back.set()
            relay.wait_for("task.finished", receipt["task_id"])
            document = get(receipt["links"]["status"]).document
            assert relay.queue.wait_until_idle(10)
            assert len(downstream.arrived) == 1
    assert (document["state"], document["response"]["body"]) == ("succeeded", "the answer")
    events = [record["event"] for record in relay.records.records(receipt["task_id"])]
    assert events.count("attempt.finished") == 1


class ShiftedClock(SystemClock):
    """The calendar of a machine that somebody sets back; what is measured goes on."""

    behind = 0.0

    def now(self) -> float:
        return super().now() - self.behind


def test_a_clock_set_back_during_a_call_gives_no_negative_time() -> None:
    clock = ShiftedClock()

    def set_back(_: Arrived) -> Response:
        clock.behind = 3600.0
        return Response("ok")

    with RunningRelay(clock=clock) as relay, Downstream(set_back) as downstream:
        receipt = post(f"{relay.url}/v1/tasks", {"url": downstream.url}).document
        relay.wait_for("task.finished", receipt["task_id"])
        document = get(receipt["links"]["status"]).document
        assert get(f"{relay.url}/v1/tasks").document["tasks"][0]["total_ms"] == 0
    (attempt,) = document["attempts"]
    assert (document["state"], document["total_ms"], attempt["latency_ms"]) == ("succeeded", 0, 0)
    for record in relay.records.records(receipt["task_id"]):
        validate(record)
        assert all(value is None or value >= 0 for name, value in record.items() if name.endswith("_ms"))


@pytest.mark.parametrize("jump", [3600.0, -3600.0], ids=["ahead", "back"])
def test_a_clock_jump_of_an_hour_loses_no_task(jump: float) -> None:
    clock, swept = ShiftedClock(), []

    def jump_and_sweep(_: Arrived) -> Response:
        clock.behind = -jump
        swept.append(get(f"{relay.url}/sweep").status)
        return Response("ok")

    with RunningRelay(clock=clock) as relay, Downstream(jump_and_sweep) as downstream:
        waiting = post(f"{relay.url}/v1/tasks", {"url": downstream.url, "delay": "2h"}).document
        receipt = post(f"{relay.url}/v1/tasks", {"url": downstream.url}).document
        finished = relay.wait_for("task.finished", receipt["task_id"])
        states = [get(r["links"]["status"]).document["state"] for r in (receipt, waiting)]
        assert len(downstream.arrived) == 1
    assert (finished["attempt_count"], states, swept) == (1, ["succeeded", "queued"], [200])
    records = [record for record in relay.records.records() if record["event"] == "relay.swept"]
    assert sum(record["workers_lost"] + record["recovered"] for record in records) == 0


class BrokenQueue(grpc.GenericRpcHandler):
    """A queue that answers every method with an error of its own, and counts."""

    def __init__(self) -> None:
        self.asked = 0

    def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        def fail(_: bytes, context: grpc.ServicerContext) -> Any:
            self.asked += 1
            context.abort(grpc.StatusCode.INTERNAL, "hush")

        return grpc.unary_unary_rpc_method_handler(fail)


@pytest.fixture
def broken() -> Iterator[tuple[BrokenQueue, str]]:
    queue, server = BrokenQueue(), grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((queue,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield queue, f"127.0.0.1:{port}"
    server.stop(0).wait()


def test_a_silent_queue_fails_the_rest_of_a_batch_at_once(
    broken: tuple[BrokenQueue, str],
) -> None:
    queue, address = broken
    url = "http://127.0.0.1:9/"
    with RunningRelay(emulator=address) as relay:
        answer = post(f"{relay.url}/v1/tasks:batch", {"tasks": [{"url": "nonsense"}, *[{"url": url}] * 5]})
        listed = get(f"{relay.url}/v1/tasks").document["tasks"]
    assert answer.status == 200
    assert [item["status"] for item in answer.document["tasks"]] == [422, *[503] * 5]
    assert (queue.asked, listed) == (1, [])
    rejections = [record for record in relay.records.records() if record["event"] == "enqueue.rejected"]
    assert [record["reason"] for record in rejections] == ["invalid", *["unavailable"] * 5]
    assert "hush" not in str(answer.document)


def test_defaults_fill_a_policy_before_it_is_validated() -> None:
    rules = {
        "queues": [{"name": "relay"}],
        "worker": {"app_engine": "default"},
        "audience": "https://relay.example.com",
        "callers": [{"email": "a@b.example", "queues": "*", "downstreams": "*"}],
        "downstreams": [{"name": "any", "url": "http://127.0.0.1:*/", "auth": "none", "allow_private": True}],
        "retry": {"max_backoff": "20m", "min_backoff": "10s"},
    }
    with RunningRelay(rules=rules) as relay, Downstream() as downstream:
        token = relay.queue.token("a@b.example", "https://relay.example.com")

        def enqueue(**retry: str) -> Any:
            wish = {"url": downstream.url, "retry": retry}
            return post(f"{relay.url}/v1/tasks", wish, Authorization=f"Bearer {token}").document

        taken = enqueue(min_backoff="15m")
        shown = get(taken["links"]["status"], Authorization=f"Bearer {token}").document["retry"]
        assert (shown["min_backoff"], shown["max_backoff"]) == ("15m", "20m")
        for backwards, message in [
            ({"min_backoff": "21m"}, "must be at least min_backoff, 21m, got 20m"),
            ({"max_backoff": "9s"}, "must be at least min_backoff, 10s, got 9s"),
        ]:
            assert enqueue(**backwards)["errors"] == [{"field": "retry.max_backoff", "message": message}]


def test_an_attempt_without_descriptors_does_not_count() -> None:
    answers: list[OSError | None] = [OSError(errno.EMFILE, "Too many open files"), None]

    def resolve(_: str, port: int, **__: Any) -> list[Any]:
        if (failure := answers.pop(0)) is not None:
            raise failure
        return socket.getaddrinfo("127.0.0.1", port, type=socket.SOCK_STREAM)

    sender = Sender(SystemClock(), no_token, resolve=resolve)
    with RunningRelay(sender=sender) as relay, Downstream() as downstream:
        url = downstream.url.replace("127.0.0.1", "localhost")
        retry = {"max_attempts": 1, "min_backoff": "0s", "jitter": "none"}
        receipt = post(f"{relay.url}/v1/tasks", {"url": url, "retry": retry}).document
        relay.wait_for("task.finished", receipt["task_id"])
        document = get(receipt["links"]["status"]).document
        assert len(downstream.arrived) == 1
    assert document["state"] == "succeeded"
    told = [(attempt["verdict"], attempt["reason"], attempt["blame"]) for attempt in document["attempts"]]
    assert told == [("retry", "interrupted", "platform"), ("succeeded", None, None)]
    for record in relay.records.records(receipt["task_id"]):
        validate(record)
