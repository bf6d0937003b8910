"""Two relays on one ledger: what one of them learns, the other has to heed."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Barrier
from typing import TYPE_CHECKING

import pytest

from support.asking import ask, get, post
from support.place import Place, free_port
from traced_relay.testing import Downstream

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.whole

CUT_WITHIN = 10.0
EAGER, ITEMS = 10, 20


def test_a_call_that_another_process_runs_is_cut_within_ten_seconds(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        silent.settimeout(10)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        place = Place(tmp_path, url)
        with place.queue, place.relay() as working, place.relay(port := free_port()) as asked:
            caller = place.bearer("other@p.iam.gserviceaccount.com")
            receipt = post(f"{place.url}/v1/tasks", {"url": f"{url}/slow"}, **caller).document
            with silent.accept()[0] as call:
                call.settimeout(CUT_WITHIN)
                assert call.recv(65_536)
                verb = f"http://127.0.0.1:{port}/v1/tasks/{receipt['task_id']}:cancel"
                answer = ask("POST", verb, headers=caller)
                asked_at = time.monotonic()
                assert (answer.status, answer.document["state"]) == (202, "cancelled")
                while call.recv(65_536):
                    pass
                assert time.monotonic() - asked_at < CUT_WITHIN
            asked.wait_for("task.finished", task_id=receipt["task_id"], state="cancelled")
            assert get(receipt["links"]["status"], **caller).document["state"] == "cancelled"
            assert working.said("attempt.finished") == []  # whoever cancelled it has said that already


@pytest.mark.parametrize("kind", ["file", "firestore"])
def test_equal_batches_at_two_relays_at_once_are_one(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    firestore = request.getfixturevalue("firestore") if kind == "firestore" else None
    with Downstream() as downstream:
        place, everybody_is_here = Place(tmp_path, downstream.url, firestore=firestore), Barrier(EAGER)
        with place.queue, place.relay() as one, place.relay(port := free_port()) as other:
            caller = place.bearer("other@p.iam.gserviceaccount.com") | {"Idempotency_Key": "at-once"}
            wish = {"tasks": [{"url": f"{downstream.url}/{number}"} for number in range(ITEMS)]}

            def enqueue(number: int) -> list[tuple[str, ...]]:
                url = place.url if number % 2 else f"http://127.0.0.1:{port}"
                everybody_is_here.wait(20)
                answer = post(f"{url}/v1/tasks:batch", wish, **caller).document["tasks"]
                return [tuple(str(item.get(name)) for name in ("task_id", "task_name", "trace_id")) for item in answer]

            with ThreadPoolExecutor(EAGER) as pool:
                answers = list(pool.map(enqueue, range(EAGER)))
            assert all(answer == answers[0] for answer in answers)
            assert len(set(answers[0])) == ITEMS
            one.wait_for_all(ITEMS, "task.finished")
            assert one.said("enqueue.rejected") + other.said("enqueue.rejected") == []
    assert sorted(arrived.path for arrived in downstream.arrived) == sorted(f"/{number}" for number in range(ITEMS))
