"""The production server, its gate and its rules, on this machine against the embedded queue."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest
from relay_process import RelayProcess
from werkzeug.wrappers import Response

from asking import ask, get, post
from queue_process import QueueProcess
from schema import validate
from traced_relay.testing import Arrived, Downstream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.whole

QUEUE = "projects/test-project/locations/us-central1/queues/relay"
AUDIENCE = "https://relay.example.com"
RULES = """
location: us-central1
queues:
  - {{name: relay}}
  - {{name: spare}}
worker: {{app_engine: default}}
audience: {audience}
callers:
  - {{email: reports@p.iam.gserviceaccount.com, queues: [relay], downstreams: [reports]}}
  - {{email: other@p.iam.gserviceaccount.com, queues: "*", downstreams: "*"}}
  - {{email: oncall@example.com, role: operator}}
downstreams:
  - {{name: reports, url: "{url}/reports", auth: none, allow_private: true}}
  - {{name: rest, url: "{url}/", auth: none, allow_private: true}}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Place:
    """A queue process, room for relay processes beside it, and tokens from the queue's key."""

    def __init__(self, directory: Path, downstream: Downstream) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.queue = QueueProcess(f"--queue={QUEUE}", f"--app-engine=default={self.url}")
        self._config = directory / "relay.yaml"
        self._config.write_text(RULES.format(audience=AUDIENCE, url=downstream.url))
        self._ledger = directory / "ledger.db"

    def relay(self) -> RelayProcess:
        return RelayProcess(
            config=self._config, ledger=f"sqlite:{self._ledger}", emulator=self.queue.address, port=self.port
        )

    def token(self, email: str, audience: str = AUDIENCE) -> str:
        host, port = self.queue.address.split(":")
        command = [sys.executable, "-m", "traced_relay", "queue", "token", email, f"--audience={audience}"]
        ran = subprocess.run([*command, f"--host={host}", f"--port={port}"], capture_output=True, text=True, check=True)
        return ran.stdout.strip()

    def bearer(self, email: str, audience: str = AUDIENCE) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(email, audience)}"}


@pytest.fixture
def place(tmp_path: Path, downstream: Downstream) -> Iterator[Place]:
    made = Place(tmp_path, downstream)
    with made.queue:
        yield made


@pytest.fixture
def downstream() -> Iterator[Downstream]:
    with Downstream() as running:
        yield running


def test_the_production_server_relays_for_callers_of_its_rules(place: Place, downstream: Downstream) -> None:
    reports = place.bearer("reports@p.iam.gserviceaccount.com")
    other, operator = place.bearer("other@p.iam.gserviceaccount.com"), place.bearer("oncall@example.com")
    with place.relay() as relay:
        answer = post(f"{place.url}/v1/tasks", {"url": f"{downstream.url}/reports/build"}, **reports)
        assert answer.status == 202, answer.document
        status = answer.document["links"]["status"]
        finished = relay.wait_for("task.finished", task_id=answer.document["task_id"])
        assert (finished["state"], finished["rule"]) == ("succeeded", "reports")
        assert get(status, **reports).document["state"] == get(status, **operator).document["state"] == "succeeded"
        assert get(status, **other).status == 404
        assert [len(get(f"{place.url}/v1/tasks", **who).document["tasks"]) for who in (reports, operator, other)] == [
            1,
            1,
            0,
        ]
        refused = [
            ({"url": f"{downstream.url}/elsewhere"}, "url"),
            ({"url": f"{downstream.url}/reportsX"}, "url"),
            ({"url": f"{downstream.url}/reports/%2e%2e/elsewhere"}, "url"),
            ({"url": f"{downstream.url}/reports", "queue": "spare"}, "queue"),
        ]
        for document, field in refused:
            answer = post(f"{place.url}/v1/tasks", document, **reports)
            assert (answer.status, answer.document["errors"][0]["field"]) == (422, field)
        assert relay.end(signal.SIGTERM) == 0
    for record in relay.records:
        validate(record)
    assert len(downstream.arrived) == 1


def test_strangers_get_nowhere(place: Place, downstream: Downstream) -> None:
    call = {"url": f"{downstream.url}/reports"}
    token = place.token("reports@p.iam.gserviceaccount.com")
    with place.relay() as relay:
        for headers, status in [
            ({}, 401),
            ({"Authorization": "Basic eDp5"}, 401),
            ({"Authorization": "Bearer x.y.z"}, 401),
            ({"Authorization": f"Bearer {token[:-8]}AAAAAAAA"}, 401),
            (place.bearer("reports@p.iam.gserviceaccount.com", "https://another.example"), 401),
            (place.bearer("stranger@example.com"), 403),
        ]:
            assert post(f"{place.url}/v1/tasks", call, **headers).status == status
        assert ask("POST", f"{place.url}/dispatch", body=b"{}").status == 403
        assert get(f"{place.url}/health").status == get(f"{place.url}/ready").status == 200
        reasons = [record["reason"] for record in relay.said("enqueue.rejected")]
        assert reasons == ["no_token", "no_token", "bad_token", "bad_token", "bad_token", "unknown_caller"]
        assert not any(token[:20] in str(record) for record in relay.records)
    assert downstream.arrived == []


def test_an_attempt_whose_worker_was_killed_is_finished_by_the_next_dispatch(tmp_path: Path) -> None:
    release = Event()

    def hang(_: Arrived) -> Response:
        release.wait(60)
        return Response("late")

    with Downstream(hang, hang) as downstream:
        place = Place(tmp_path, downstream)
        with place.queue:
            who = place.bearer("reports@p.iam.gserviceaccount.com")
            with place.relay() as relay:
                receipts = {
                    idempotent: post(
                        f"{place.url}/v1/tasks", {"url": f"{downstream.url}/reports", "idempotent": idempotent}, **who
                    ).document
                    for idempotent in (True, False)
                }
                for receipt in receipts.values():
                    relay.wait_for("attempt.started", task_id=receipt["task_id"])
                downstream.wait_for(2)
                relay.kill()
            with place.relay() as relay:
                finished = {
                    idempotent: relay.wait_for("task.finished", 55, task_id=receipt["task_id"])
                    for idempotent, receipt in receipts.items()
                }
                lost = relay.said("attempt.finished", reason="worker_lost")
                documents = {key: get(r["links"]["status"], **who).document for key, r in receipts.items()}
        release.set()
    assert {record["task_id"] for record in lost} == {receipt["task_id"] for receipt in receipts.values()}
    assert (finished[True]["state"], finished[True]["attempt_count"]) == ("succeeded", 2)
    assert (finished[False]["state"], finished[False]["reason"]) == ("failed", "worker_lost")
    assert [attempt["reason"] for attempt in documents[True]["attempts"]] == ["worker_lost", None]
    keys = [request.headers["idempotency-key"] for request in downstream.arrived]
    assert keys.count(receipts[True]["task_id"]) == 2
    assert keys.count(receipts[False]["task_id"]) == 1


def test_a_queue_out_of_reach_is_a_503_that_leaves_nothing_behind(place: Place, downstream: Downstream) -> None:
    who = place.bearer("reports@p.iam.gserviceaccount.com")
    with place.relay() as relay:
        assert get(f"{place.url}/v1/tasks", **who).status == 200
        place.queue.send(signal.SIGKILL)
        answer: Any = post(f"{place.url}/v1/tasks", {"url": f"{downstream.url}/reports"}, **who)
        assert (answer.status, answer.headers["content-type"]) == (503, "application/problem+json")
        assert get(f"{place.url}/v1/tasks", **who).document["tasks"] == []
        assert relay.wait_for("enqueue.rejected")["reason"] == "unavailable"
