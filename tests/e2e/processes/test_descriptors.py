"""What a relay does that has no file descriptor left, and that it goes on once it has."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from support.asking import get, post

if TYPE_CHECKING:
    from support.place import Place
    from support.relay_process import RelayProcess
    from traced_relay.testing import Downstream

pytestmark = pytest.mark.whole

REPORTS = "reports@p.iam.gserviceaccount.com"


def warmed_up(place: Place, relay: RelayProcess, call: dict[str, object], who: dict[str, str]) -> None:
    """One call, so that the channel to the queue and all that is opened once is open."""
    task_id = post(f"{place.url}/v1/tasks", call, **who).document["task_id"]
    assert relay.wait_for("task.finished", task_id=task_id)["state"] == "succeeded"


def test_without_descriptors_no_call_begins_and_nobody_is_blamed(place: Place, downstream: Downstream) -> None:
    call = {"url": f"{downstream.url}/reports", "retry": {"max_attempts": 1}}
    who = place.bearer(REPORTS)
    with place.relay() as relay:
        warmed_up(place, relay, call, who)
        relay.leave_descriptors(2)
        task_id = post(f"{place.url}/v1/tasks", call, **who).document["task_id"]
        deferred = relay.wait_for("dispatch.deferred", reason="capacity")
        assert get(f"{place.url}/v1/tasks/{task_id}", **who).document["state"] == "queued"
        assert deferred["task_name"].endswith(f"{task_id}-1")
        assert relay.said("attempt.started", task_id=task_id) == []
        relay.leave_descriptors(None)
        finished = relay.wait_for("task.finished", 40, task_id=task_id)
        assert (finished["state"], finished["attempt_count"]) == ("succeeded", 1)
        assert len(relay.said("relay.started")) == 1
    assert len(downstream.arrived) == 2


def test_an_idle_connection_is_closed_when_descriptors_run_out(place: Place, downstream: Downstream) -> None:
    who = place.bearer(REPORTS)
    with place.relay() as relay:
        warmed_up(place, relay, {"url": f"{downstream.url}/reports"}, who)
        before = relay.leave_descriptors(0)
        with socket.create_connection(("127.0.0.1", place.port)) as waiting:
            waiting.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            waiting.settimeout(10)
            assert waiting.recv(100).startswith(b"HTTP/1.1 200 ")
        relay.wait_for_line("cannot accept a connection: Too many open files")
        relay.leave_descriptors(None)
        warmed_up(place, relay, {"url": f"{downstream.url}/reports"}, who)
        assert len(relay.said("relay.started")) == 1
        assert relay.leave_descriptors(None) <= before + 2
