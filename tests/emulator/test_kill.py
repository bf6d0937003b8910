"""What was acknowledged is dispatched, however often the queue is killed."""

from __future__ import annotations

import signal
from threading import Condition, Thread
from typing import TYPE_CHECKING

import grpc
import pytest

from support.queue_process import QueueProcess
from support.worker import Worker
from traced_relay.emulator import messages as m
from traced_relay.emulator.methods import METHODS

if TYPE_CHECKING:
    from pathlib import Path

QUEUE = "projects/p/locations/l/queues/storm"
THREADS = 4


class Load:
    """Creates named tasks from several threads and keeps the names that were acknowledged."""

    def __init__(self, address: str, worker_url: str, tasks: int) -> None:
        options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
        self._channel = grpc.insecure_channel(address, options=options)
        self._create = self._channel.unary_unary(
            "/google.cloud.tasks.v2.CloudTasks/CreateTask",
            METHODS["CreateTask"].request.SerializeToString,
            m.Task.FromString,
        )
        self._url = worker_url
        self.acknowledged: set[str] = set()
        self._changed = Condition()
        names = [f"t{number}" for number in range(tasks)]
        self._threads = [Thread(target=self._run, args=(names[part::THREADS],)) for part in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def _run(self, names: list[str]) -> None:
        for name in names:
            while not self._is_acknowledged(name):
                pass
            with self._changed:
                self.acknowledged.add(name)
                self._changed.notify_all()

    def _is_acknowledged(self, name: str) -> bool:
        request = METHODS["CreateTask"].request(parent=QUEUE)
        request.task.name = f"{QUEUE}/tasks/{name}"
        request.task.http_request.url = self._url
        try:
            self._create(request, timeout=20, wait_for_ready=True)
        except grpc.RpcError as exc:
            if exc.code() is grpc.StatusCode.UNAVAILABLE:
                return False
            if exc.code() is not grpc.StatusCode.ALREADY_EXISTS:  # it was stored, and a kill took only the answer
                raise
        return True

    def wait_for(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.acknowledged) >= count, 60), len(self.acknowledged)

    def finish(self) -> None:
        for thread in self._threads:
            thread.join()
        self._channel.close()


@pytest.mark.parametrize(
    ("kills", "tasks"),
    [
        pytest.param(5, 600, marks=pytest.mark.whole),
        pytest.param(30, 5000, marks=[pytest.mark.soak, pytest.mark.timeout(600)]),
    ],
)
def test_no_acknowledged_task_is_lost_to_kills(
    kills: int, tasks: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (f"--data={tmp_path / 'queue.db'}", f"--queue={QUEUE}")
    with Worker() as worker:
        running = QueueProcess(*options)
        load = Load(running.address, worker.url, tasks)
        for kill in range(1, kills + 1):
            load.wait_for(kill * tasks // (kills + 1))
            running.send(signal.SIGKILL)
            running = QueueProcess(*options, port=running.port, rest_port=running.rest_port)
        with running:
            load.finish()
            arrived = worker.wait_for_all(load.acknowledged, seconds=120)
    again = sum(arrived.values()) - len(arrived)
    with capsys.disabled():
        print(f"\n{kills} kills, {len(load.acknowledged)} acknowledged, {len(arrived)} dispatched, {again} again")  # noqa: T201
    assert len(load.acknowledged) == tasks
    assert load.acknowledged <= arrived.keys()
