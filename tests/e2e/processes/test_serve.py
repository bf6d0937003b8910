"""The production server, its gate and its rules, on this machine against the embedded queue."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from support.asking import ask, get, post
from support.hanging import Hanging
from support.place import Place
from support.schema import validate
from traced_relay.testing import Downstream

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.whole


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
        assert reasons == [
            *("no_token", "no_token", "malformed_token", "bad_signature", "wrong_audience", "unknown_caller")
        ]
        assert not any(token[:20] in str(record) for record in relay.records)
    assert downstream.arrived == []


def test_a_killed_workers_attempt_is_finished_by_the_next_dispatch(tmp_path: Path) -> None:
    hang = Hanging(60)
    with Downstream(hang, hang) as downstream:
        place = Place(tmp_path, downstream.url)
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
        hang.release()
    assert {record["task_id"] for record in lost} == {receipt["task_id"] for receipt in receipts.values()}
    assert (finished[True]["state"], finished[True]["attempt_count"]) == ("succeeded", 2)
    assert (finished[False]["state"], finished[False]["reason"]) == ("failed", "worker_lost")
    assert [attempt["reason"] for attempt in documents[True]["attempts"]] == ["worker_lost", None]
    keys = [request.headers["idempotency-key"] for request in downstream.arrived]
    assert keys.count(receipts[True]["task_id"]) == 2
    assert keys.count(receipts[False]["task_id"]) == 1
