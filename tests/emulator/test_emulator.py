from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING

import grpc
import pytest
from click.testing import CliRunner
from google.auth import jwt
from google.cloud.tasks_v2 import CloudTasksClient
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from support.queue_process import QueueProcess
from support.worker import Worker
from traced_relay.cli.main import main
from traced_relay.emulator.emulator import LocalQueue
from traced_relay.emulator.errors import ApiError
from traced_relay.emulator.methods import METHODS
from traced_relay.errors import PortTaken
from traced_relay.runtime.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUEUE = "projects/p/locations/l/queues/q"
TASK = f"{QUEUE}/tasks/t"
RECORDED = (503, 404, 429, 500, 302, 200)


@pytest.fixture
def invoke() -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: str) -> tuple[int, str, str]:
        ran = CliRunner().invoke(main, arguments)
        return ran.exit_code, ran.stdout, ran.stderr

    return run


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("family", "task", "answered"),
    [
        ("x-cloudtasks", "http_request", ["0", "0", "1", "2", "2", "3"]),
        ("x-appengine", "app_engine_http_request", ["0", "1", "2", "3", "4", "5"]),
    ],
)
def test_a_retry_has_the_headers_recorded_from_production(family: str, task: str, answered: list[str]) -> None:
    clock = ManualClock()
    with Worker(*RECORDED) as worker, LocalQueue(clock=clock, app_engine={"default": worker.url}) as local:
        local.add_queue(QUEUE)
        request = {"url": worker.url} if task == "http_request" else {"relative_uri": "/"}
        with grpc.insecure_channel(local.address) as channel:
            client = CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
            client.create_task(parent=QUEUE, task={"name": TASK, task: request})
        for count in range(1, len(RECORDED) + 1):
            worker.wait_for(count)
            assert local.wait_until_idle(10)
            clock.advance(3600)
    headers = [arrival.headers for arrival in worker.arrivals]
    assert [one[f"{family}-taskretrycount"] for one in headers] == ["0", "1", "2", "3", "4", "5"]
    assert [one[f"{family}-taskexecutioncount"] for one in headers] == answered
    assert [one.get(f"{family}-taskpreviousresponse") for one in headers] == [None, "503", "404", "429", "500", "302"]


def test_a_dispatch_has_a_token_signed_by_the_queue(local: LocalQueue, worker: Worker) -> None:
    local.add_queue(QUEUE)
    with grpc.insecure_channel(local.address) as channel:
        client = CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
        oidc = {"service_account_email": "worker@p.iam.gserviceaccount.com", "audience": "https://relay.example.com"}
        client.create_task(parent=QUEUE, task={"http_request": {"url": worker.url, "oidc_token": oidc}})
    (arrival,) = worker.wait_for(1)
    scheme, _, token = arrival.headers["authorization"].partition(" ")
    claims = jwt.decode(token, verify=False)
    assert scheme == "Bearer"
    assert (claims["iss"], claims["aud"]) == (local.rest_url, "https://relay.example.com")
    assert claims["email"] == "worker@p.iam.gserviceaccount.com"


def test_app_engine_tasks_follow_the_latest_route(local: LocalQueue, worker: Worker) -> None:
    local.add_queue(QUEUE)
    local.route_app_engine("default", "http://127.0.0.1:9")
    local.route_app_engine("reports", worker.url)
    with grpc.insecure_channel(local.address) as channel:
        client = CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
        routed = {"relative_uri": "/work", "app_engine_routing": {"service": "reports"}}
        client.create_task(parent=QUEUE, task={"name": TASK, "app_engine_http_request": routed})
    (arrival,) = worker.wait_for(1)
    assert (arrival.path, arrival.headers["x-appengine-taskname"]) == ("/work", "t")


def test_key_and_queues_survive_a_restart(tmp_path: Path) -> None:
    data = tmp_path / "queue.db"
    with LocalQueue(data=data) as first:
        first.add_queue(QUEUE, rate_limits={"max_concurrent_dispatches": 3})
        token = first.token("a@example.com", "https://x")
    with LocalQueue(data=data) as second:
        second.add_queue(QUEUE)
        assert jwt.decode_header(token) == jwt.decode_header(second.token("a@example.com", "https://x"))


def test_a_recently_deleted_queue_cannot_be_added(local: LocalQueue) -> None:
    local.add_queue(QUEUE)
    local.service.call("DeleteQueue", METHODS["DeleteQueue"].request(name=QUEUE))
    with pytest.raises(ApiError, match="existed too recently"):
        local.add_queue(QUEUE)


def test_a_failed_start_frees_its_resources(local: LocalQueue, tmp_path: Path) -> None:
    taken = int(local.address.rpartition(":")[2])
    rest_port = free_port()
    with pytest.raises(PortTaken, match=str(taken)):
        LocalQueue(port=taken, rest_port=rest_port, data=tmp_path / "queue.db").start()
    with LocalQueue(rest_port=rest_port, data=tmp_path / "queue.db") as second:
        assert second.rest_url.endswith(str(rest_port))


def test_a_taken_port_is_reported_in_one_line(local: LocalQueue, invoke: Callable[..., tuple[int, str, str]]) -> None:
    port = local.address.rpartition(":")[2]
    code, _, said = invoke("queue", f"--port={port}", "--rest-port=0")
    assert (code, said) == (
        1,
        f"traced-relay: port {port} on 127.0.0.1 is used by another process; choose another one\n",
    )


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("--queue=reports", "--queue reports: Queue name must be formatted"),
        ("--app-engine=http://127.0.0.1:8080", "--app-engine must be SERVICE=http://HOST:PORT, got"),
        ("--app-engine=default=127.0.0.1:8080", "--app-engine must be SERVICE=http://HOST:PORT, got"),
        ("--data=/nowhere/at/all/queue.db", "queue data /nowhere/at/all/queue.db: "),
        ("--host=192.0.2.1", "port 0 on 192.0.2.1 cannot be opened: Cannot assign requested address"),
    ],
)
def test_an_invalid_option_is_reported_in_one_line(
    invoke: Callable[..., tuple[int, str, str]], option: str, complaint: str
) -> None:
    code, _, said = invoke("queue", "--port=0", "--rest-port=0", option)
    assert code == 1
    assert said.startswith(f"traced-relay: {complaint}")
    assert said.count("\n") == 1


def test_queue_token_gets_a_token_from_the_running_queue(
    local: LocalQueue, invoke: Callable[..., tuple[int, str, str]]
) -> None:
    port = local.address.rpartition(":")[2]
    code, printed, _ = invoke("queue", "token", "a@example.com", "--audience=https://x", f"--port={port}")
    claims = jwt.decode(printed.strip(), verify=False)
    assert (code, claims["email"], claims["aud"]) == (0, "a@example.com", "https://x")
    code, _, said = invoke("queue", "token", "", "--audience=https://x", f"--port={port}")
    assert (code, said) == (1, "traced-relay: email and audience must be non-empty strings.\n")


def test_without_a_running_queue_there_is_no_token(invoke: Callable[..., tuple[int, str, str]]) -> None:
    port = free_port()
    code, _, said = invoke("queue", "token", "a@example.com", "--audience=https://x", f"--port={port}")
    assert (code, said) == (
        1,
        f"traced-relay: no queue responds at 127.0.0.1:{port}; start one with `traced-relay queue`\n",
    )


@pytest.mark.whole
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_cleanly_on_a_signal(ending: int, tmp_path: Path) -> None:
    options = [f"--queue={QUEUE}", f"--data={tmp_path / 'queue.db'}", "--app-engine=default=http://127.0.0.1:9"]
    with QueueProcess(*options) as running:
        assert running.send(ending) == 0
    assert f"export CLOUD_TASKS_EMULATOR_HOST={running.address}\n" in running.said
    assert "Traceback" not in running.said
    assert "warning" not in running.said


@pytest.mark.whole
def test_a_public_address_prints_a_warning() -> None:
    with QueueProcess("--host=0.0.0.0") as running:
        assert running.send(signal.SIGTERM) == 0
    assert "warning: every client that reaches 0.0.0.0 can create tasks" in running.said
