"""A reader of stdout that stops reading: deadlines are enforced, the process ends in time, no end of a task is lost."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from support.asking import ask, get, post
from support.command import command, surroundings
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


def test_a_stalled_reader_takes_away_no_thread(tmp_path: Path, silent: socket.socket) -> None:
    threads = 16
    place = Place(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}")
    with place.queue, place.relay(threads=threads) as relay:
        who = place.bearer(WHO)
        stall(relay, place)
        later = {"url": f"http://127.0.0.1:{silent.getsockname()[1]}/x", "delay": "1h"}
        begun = time.monotonic()
        receipts = [post(f"{place.url}/v1/tasks", later, **who) for _ in range(threads + 4)]
        assert {receipt.status for receipt in receipts} == {202}
        assert get(f"{place.url}/health").status == 200
        cancelled = [receipt.document["task_id"] for receipt in receipts[:threads]]
        for task_id in cancelled:
            assert post(f"{place.url}/v1/tasks/{task_id}:cancel", None, **who).status == 202
        assert time.monotonic() - begun < 10  # one wait of a second, and some 40 requests
        relay.is_read.set()
        relay.wait_for_all(threads + 4, "task.enqueued")
        relay.wait_for_all(threads, "task.cancelled")
        assert relay.end(signal.SIGTERM) == 0
    assert relay.torn == []


def test_a_stalled_reader_delays_no_end_of_the_process(tmp_path: Path, silent: socket.socket) -> None:
    place = Place(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}")
    with place.queue, place.relay() as relay:
        call, who = {"url": f"http://127.0.0.1:{silent.getsockname()[1]}/x"}, place.bearer(WHO)
        for _ in range(40):
            post(f"{place.url}/v1/tasks", call, **who)
        relay.wait_for_all(40, "attempt.started")
        stall(relay, place)
        begun = time.monotonic()
        assert relay.end(signal.SIGTERM) == 0
        assert time.monotonic() - begun < 3  # under two by itself; the tests beside it take their part of the machine


def test_a_stalled_reader_delays_no_end_of_dev(silent: socket.socket) -> None:
    options = ("dev", "--port=0", "--tasks-port=0", "--log-format=json")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command(*options), env=surroundings(), text=True, **pipes) as running:
        try:
            assert running.stderr
            url = running.stderr.readline().split()[1]
            call = {"url": f"http://127.0.0.1:{silent.getsockname()[1]}/x"}
            for _ in range(2 * PIPE // 1000):  # whose records are more than the pipe holds
                assert post(f"{url}/v1/tasks", call).status == 202
            begun = time.monotonic()
            running.send_signal(signal.SIGTERM)
            assert running.wait(20) == 0
            assert time.monotonic() - begun < 8
        finally:
            running.kill()
