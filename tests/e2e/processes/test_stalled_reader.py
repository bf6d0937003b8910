"""A reader of stdout that stops reading: deadlines are enforced, the process ends in time, no end of a task is lost."""

from __future__ import annotations

import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest

from support.asking import ask, get, post
from support.place import Place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.relay_process import RelayProcess

pytestmark = pytest.mark.whole

PIPE = 64 * 1024
WHO = "other@p.iam.gserviceaccount.com"


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)
        yield listening


def stall(relay: RelayProcess, place: Place) -> None:
    """Read no more, and have more said than the pipe holds."""
    relay.is_read.clear()
    for _ in range(3 * PIPE // 300):
        assert ask("POST", f"{place.url}/v1/tasks", body=b"{}").status == 401


def test_a_stalled_reader_delays_no_deadline_and_no_health_check(tmp_path: Path, silent: socket.socket) -> None:
    place = Place(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}")
    with (tmp_path / "relay.yaml").open("a") as rules:
        rules.write("heartbeat: 1s\n")
    with place.queue, place.relay() as relay:
        call = {"url": f"http://127.0.0.1:{silent.getsockname()[1]}/x", "timeout": "8s", "retry": {"max_attempts": 1}}
        receipt = post(f"{place.url}/v1/tasks", call, **place.bearer(WHO)).document
        connection, _ = silent.accept()
        begun = time.monotonic()
        stall(relay, place)
        with connection:
            connection.settimeout(20)
            while connection.recv(65_536):
                pass
        assert 7 < time.monotonic() - begun < 12
        assert get(f"{place.url}/health").status == 200
        relay.is_read.set()
        finished = relay.wait_for("task.finished", task_id=receipt["task_id"])
        assert (finished["state"], finished["reason"]) == ("failed", "timeout")
        relay.wait_for_all(3, "attempt.heartbeat")
        assert relay.end(signal.SIGTERM) == 0
    assert relay.torn == []


def test_a_stalled_reader_delays_no_end_of_the_process(tmp_path: Path, silent: socket.socket) -> None:
    place = Place(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}")
    with place.queue, place.relay() as relay:
        call = {"url": f"http://127.0.0.1:{silent.getsockname()[1]}/x"}
        post(f"{place.url}/v1/tasks", call, **place.bearer(WHO))
        connection, _ = silent.accept()
        with connection:
            stall(relay, place)
            begun = time.monotonic()
            assert relay.end(signal.SIGTERM) == 0
            assert time.monotonic() - begun < 5
