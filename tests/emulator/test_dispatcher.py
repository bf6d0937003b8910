from __future__ import annotations

import socket
import threading
from contextlib import ExitStack
from threading import Event, Semaphore
from typing import TYPE_CHECKING, Any, Self

import pytest

from support.rig import LOCATION, QUEUE, duration, retries
from support.scripted import OK, ScriptedWorker, status
from traced_relay.emulator import messages as m
from traced_relay.emulator.dispatcher import Dispatcher
from traced_relay.emulator.methods import METHODS
from traced_relay.emulator.service import Service
from traced_relay.emulator.store import Store
from traced_relay.runtime.clock import Clock, ManualClock, SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PATIENT = retries(-1, 0, 10, 300, 3)
AGENT = "AppEngine-Google; (+http://code.google.com/appengine)"


def mint(email: str, audience: str) -> str:
    return f"{email}@{audience}"


class Running:
    """A queue that really delivers, with the words the tests need."""

    def __init__(
        self, clock: Clock, *, app_engine: str = "", data: Path | None = None, mint: Callable[..., str] = mint
    ) -> None:
        self.store = Store(data) if data else None
        self.service = Service(clock, self.store)
        routes = {"default": app_engine} if app_engine else {}
        self.dispatcher = Dispatcher(self.service, clock, mint=mint, app_engine=routes, idle_threads=4)

    def __enter__(self) -> Self:
        self.dispatcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.dispatcher.stop()
        if self.store:
            self.store.close()

    def make_queue(self, **fields: Any) -> None:
        fields = {"retry_config": PATIENT, **fields}
        self.service.call(
            "CreateQueue", METHODS["CreateQueue"].request(parent=LOCATION, queue=m.Queue(name=QUEUE, **fields))
        )

    def create(self, task_id: str = "t", **task: Any) -> None:
        named = m.Task(name=f"{QUEUE}/tasks/{task_id}" if task_id else "", **task)
        self.service.call("CreateTask", METHODS["CreateTask"].request(parent=QUEUE, task=named))

    def get(self, task_id: str = "t") -> Any:
        return self.service.call("GetTask", METHODS["GetTask"].request(name=f"{QUEUE}/tasks/{task_id}"))

    def left(self) -> list[str]:
        listed: Any = self.service.call("ListTasks", METHODS["ListTasks"].request(parent=QUEUE))
        return [task.name.rpartition("/")[2] for task in listed.tasks]

    def settle(self) -> None:
        assert self.service.wait_until_idle(10)


def http(worker: ScriptedWorker, **fields: Any) -> dict[str, Any]:
    return {"http_request": {"url": f"{worker.url}/do?a=1", **fields}}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_a_task_arrives_as_it_was_sent_and_is_gone(clock: ManualClock) -> None:
    with ScriptedWorker() as worker, Running(clock) as queue:
        queue.make_queue()
        queue.create(**http(worker, body=b"hi", headers={"content-type": "text/plain"}))
        queue.settle()

        assert queue.left() == []
        assert worker.requests[0].startswith(b"POST /do?a=1 HTTP/1.1\r\n")
        assert worker.requests[0].endswith(b"\r\n\r\nhi")
        assert worker.headers(0) == {
            "host": worker.url.removeprefix("http://"),
            "content-type": "text/plain",
            "content-length": "2",
            "user-agent": "Google-Cloud-Tasks",
            "x-cloudtasks-queuename": "q",
            "x-cloudtasks-taskname": "t",
            "x-cloudtasks-taskretrycount": "0",
            "x-cloudtasks-taskexecutioncount": "0",
            "x-cloudtasks-tasketa": "1790000000.000000",
        }


RUN = (503, 404, 429, 500, 302)


def recorded(prefix: str, agent: str, executions: str, reason: str) -> list[dict[str, str]]:
    """What production sends on the way through RUN and then 200."""
    found = []
    for attempt, count in enumerate(executions):
        sent = {
            "user-agent": agent,
            f"{prefix}queuename": "q",
            f"{prefix}taskname": "t",
            f"{prefix}taskretrycount": str(attempt),
            f"{prefix}taskexecutioncount": count,
        }
        if attempt:
            sent |= {f"{prefix}taskpreviousresponse": str(RUN[attempt - 1]), f"{prefix}taskretryreason": reason}
        found.append(sent)
    return found


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("http", recorded("x-cloudtasks-", "Google-Cloud-Tasks", "001223", "")),
        ("app engine", recorded("x-appengine-", AGENT, "012345", "App Error")),
    ],
)
def test_the_recorded_runs_of_production_come_over_the_wire(
    clock: ManualClock, family: str, expected: list[dict[str, str]]
) -> None:
    with ScriptedWorker(*(status(code) for code in RUN)) as worker, Running(clock, app_engine=worker.url) as queue:
        queue.make_queue()
        queue.create(**(http(worker) if family == "http" else {"app_engine_http_request": {}}))
        for _ in RUN:
            queue.settle()
            clock.advance(600)
        queue.settle()

        seen = [
            {name: value for name, value in worker.headers(number).items() if name in expected[number]}
            for number in range(len(worker.requests))
        ]
        assert seen == expected
        assert not [name for name in worker.headers(0) if name.endswith(("previousresponse", "retryreason"))]
        assert queue.left() == []


@pytest.mark.parametrize(
    ("family", "previous", "reason"), [("http", "504", ""), ("app engine", "0", "Instance Unavailable")]
)
@pytest.mark.parametrize("hang", ["silent", "trickling"])
def test_a_late_response_is_aborted(clock: ManualClock, family: str, previous: str, reason: str, hang: str) -> None:
    cut = Event()

    def hold(connection: socket.socket) -> None:
        if hang == "trickling":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome")
        assert connection.recv(1) == b""
        cut.set()

    with ScriptedWorker(hold) as worker, Running(clock, app_engine=worker.url) as queue:
        queue.make_queue()
        target = http(worker) if family == "http" else {"app_engine_http_request": {}}
        queue.create(**target, dispatch_deadline=duration(15))
        worker.wait_for(1)
        clock.advance(14.9)
        assert not cut.is_set()
        clock.advance(0.1)
        queue.settle()
        assert cut.wait(5)
        assert queue.get().response_count == 0
        clock.advance(10)
        queue.settle()

        prefix = "x-cloudtasks-" if family == "http" else "x-appengine-"
        retry = worker.headers(1)
        assert [retry[prefix + name] for name in ("taskretrycount", "taskexecutioncount")] == ["1", "0"]
        assert [retry[prefix + name] for name in ("taskpreviousresponse", "taskretryreason")] == [previous, reason]


def test_a_call_may_take_24_hours(clock: ManualClock) -> None:
    finish = Event()

    def hold(connection: socket.socket) -> None:
        assert finish.wait(10)
        connection.sendall(OK)

    with ScriptedWorker(hold) as worker, Running(clock, app_engine=worker.url) as queue:
        queue.make_queue()
        queue.create(app_engine_http_request={}, dispatch_deadline=duration(86415))
        worker.wait_for(1)
        clock.advance(86400)
        finish.set()
        queue.settle()

        assert queue.left() == []
        assert len(worker.requests) == 1


def test_a_connection_is_used_again_for_the_next_task(clock: ManualClock) -> None:
    with ScriptedWorker() as worker, Running(clock) as queue:
        queue.make_queue()
        for _ in range(3):
            queue.create("", **http(worker))
            queue.settle()

        assert (len(worker.requests), worker.connections) == (3, 1)


def test_an_old_idle_connection_is_not_reused(clock: ManualClock) -> None:
    with ScriptedWorker() as worker, Running(clock) as queue:
        queue.make_queue()
        for _ in range(2):
            queue.create("", **http(worker))
            queue.settle()
            clock.advance(1)

        assert (len(worker.requests), worker.connections) == (2, 2)


def test_a_closed_connection_is_replaced_without_a_failure(clock: ManualClock) -> None:
    closed = Event()

    def answer_and_close(connection: socket.socket) -> None:
        connection.sendall(OK)
        connection.shutdown(socket.SHUT_RDWR)
        closed.set()

    with ScriptedWorker(answer_and_close, OK) as worker, Running(clock) as queue:
        queue.make_queue()
        for task_id in ("a", "b"):
            queue.create(task_id, **http(worker))
            queue.settle()
            assert closed.wait(5)

        assert [worker.headers(n)["x-cloudtasks-taskretrycount"] for n in range(2)] == ["0", "0"]
        assert worker.connections == 2


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH_9.9\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"]
)
def test_an_incomplete_response_is_a_failed_attempt(clock: ManualClock, answer: bytes) -> None:
    def break_off(connection: socket.socket) -> None:
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_RDWR)

    with ScriptedWorker(break_off) as worker, Running(clock) as queue:
        queue.make_queue()
        queue.create(**http(worker))
        queue.settle()

        shown = queue.get()
        assert (shown.dispatch_count, shown.response_count) == (1, 0)
        assert shown.last_attempt.response_status.message == "UNKNOWN(2): HTTP status code 0"


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:{port}/", "http://127.0.0.1:{port}/%zz", "http://a..b/", "https://127.0.0.1:{port}/"],
)
def test_a_worker_that_cannot_be_reached_is_a_failed_attempt(clock: ManualClock, url: str) -> None:
    with Running(clock) as queue:
        queue.make_queue()
        queue.create(http_request={"url": url.format(port=closed_port())})
        queue.settle()

        assert queue.get().last_attempt.response_status.message == "UNKNOWN(2): HTTP status code 0"


def test_a_hanging_handshake_is_aborted(clock: ManualClock) -> None:
    with ScriptedWorker() as worker, Running(clock) as queue:
        queue.make_queue()
        queue.create(http_request={"url": worker.url.replace("http://", "https://")}, dispatch_deadline=duration(15))
        worker.wait_for_connections(1)
        clock.advance(15)
        queue.settle()

        assert queue.get().last_attempt.response_status.message == "DEADLINE_EXCEEDED(4): HTTP status code 504"


def test_an_id_token_is_made_for_each_dispatch(clock: ManualClock) -> None:
    with ScriptedWorker() as worker, Running(clock) as queue:
        queue.make_queue()
        queue.create(**http(worker, oidc_token={"service_account_email": "e", "audience": "a"}))
        queue.settle()

        assert worker.headers(0)["authorization"] == "Bearer e@a"


def test_a_token_error_is_a_failed_attempt_and_logged(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    def broken(email: str, audience: str) -> str:
        raise RuntimeError(f"no key for {email}")

    with ScriptedWorker() as worker, Running(clock, mint=broken) as queue:
        queue.make_queue()
        queue.create(**http(worker, oidc_token={"service_account_email": "e", "audience": "a"}))
        queue.settle()

        assert queue.get().last_attempt.response_status.message == "UNKNOWN(2): HTTP status code 0"
        assert [record.message for record in caplog.records] == [f"cannot send the dispatch of {QUEUE}/tasks/t"]


def test_concurrency_stays_within_the_queues_limit(clock: ManualClock) -> None:
    release, before = Event(), set(threading.enumerate())

    def hold(connection: socket.socket) -> None:
        assert release.wait(10)
        connection.sendall(OK)

    with ScriptedWorker(*[hold] * 40) as worker, Running(clock) as queue:
        queue.make_queue(rate_limits={"max_concurrent_dispatches": 30})
        for _ in range(40):
            queue.create("", **http(worker))
        worker.wait_for(30)
        assert len(worker.requests) == 30
        release.set()
        queue.settle()

        assert len(worker.requests) == 40
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "queue-pusher"]


def test_stop_aborts_attempts_and_a_restart_sends_them_again(clock: ManualClock, tmp_path: Path) -> None:
    gone = Event()

    def hold(connection: socket.socket) -> None:
        assert connection.recv(1) == b""
        gone.set()

    data = tmp_path / "queue.db"
    with ScriptedWorker(hold) as worker:
        with Running(clock, data=data) as queue:
            queue.make_queue()
            queue.create("cut", **http(worker))
            worker.wait_for(1)
            queue.create("late", **http(worker), schedule_time=m.Timestamp(seconds=int(clock.now()) + 60))
        assert gone.wait(5)

        with Running(clock, data=data) as queue:
            queue.settle()
            clock.advance(60)
            queue.settle()
            assert queue.left() == []

        names = [worker.headers(number)["x-cloudtasks-taskname"] for number in range(len(worker.requests))]
        assert names == ["cut", "cut", "late"]


def test_a_queue_can_be_stopped_before_it_had_anything_to_do() -> None:
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(Running(SystemClock()))


def test_without_more_threads_the_existing_ones_deliver(clock: ManualClock) -> None:
    asked, go_on = Semaphore(0), Event()

    def hesitate(email: str, audience: str) -> str:
        asked.release()
        assert go_on.wait(10)
        return email

    with ScriptedWorker() as worker, Running(clock, mint=hesitate) as queue:
        queue.make_queue()
        usual = threading.stack_size(1 << 47)  # more than there is, so that no thread can start
        try:
            for _ in range(3):
                queue.create("", **http(worker, oidc_token={"service_account_email": "e"}))
            assert asked.acquire(timeout=10)
        finally:
            threading.stack_size(usual)
        go_on.set()
        queue.settle()

        assert len(worker.requests) == 3
        assert queue.left() == []
