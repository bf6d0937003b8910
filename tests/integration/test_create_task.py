"""CreateTask as it goes over the wire, against the same request from Google's own client."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport
from google.oauth2.credentials import Credentials
from google.protobuf import duration_pb2, timestamp_pb2

from support.example_rows import TASK_ID, call, row
from support.local_ca import Authority
from support.task_service import TaskService
from traced_relay.cloud_tasks.client import REQUEST_TIMEOUT, CloudTasks
from traced_relay.config.relay_yaml import TaskTarget
from traced_relay.errors import EnqueueFailed, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PREFIX = "projects/my-project/locations/us-central1/queues"
NAME = f"{PREFIX}/relay/tasks/{TASK_ID}-1"
AT = 1_790_000_000.25
ACCOUNT = "queue@my-project.iam.gserviceaccount.com"
HEADERS = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "x-relay-traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
WIRED = {"content-type": "application/json", **HEADERS}
CONTENT = b'{"task_id":"%s","attempt":1}' % TASK_ID.encode()
DEFAULT, OTHER = TaskTarget(app_engine="default"), TaskTarget(app_engine="relay")
RUN = TaskTarget(url="https://relay-x.a.run.app/", service_account=ACCOUNT)
AUDIENCE = "https://relay.example.com"


@contextmanager
def tasks_of(
    service: TaskService,
    worker: TaskTarget = DEFAULT,
    audience: str | None = AUDIENCE,
    transport: CloudTasksGrpcTransport | None = None,
) -> Iterator[CloudTasks]:
    emulator = None if transport else service.address
    made = CloudTasks(queue_prefix=PREFIX, worker=worker, audience=audience, emulator=emulator, transport=transport)
    yield made
    made.close()


def created(tasks: CloudTasks, at: float | None = None, timeout: float = 600.0) -> bool:
    return tasks.create(row(call=call(timeout=timeout)), name=NAME, at=at, headers=HEADERS)


def created_direct(tasks: CloudTasks, audience: str | None = None, at: float | None = None, **fields: Any) -> bool:
    direct = call(headers={"content-type": "text/plain", "X-A": "é"}, **fields)
    return tasks.create_direct(
        queue="relay", name=NAME, at=at, call=direct, added=HEADERS, service_account=ACCOUNT, audience=audience
    )


def app_engine(routing: dict[str, str]) -> dict[str, Any]:
    request = {"relative_uri": "/dispatch", "app_engine_routing": routing, "headers": WIRED, "body": CONTENT}
    return {"app_engine_http_request": request}


def over_http(token: dict[str, Any], url: str = "https://relay-x.a.run.app/dispatch", **fields: Any) -> dict[str, Any]:
    return {"http_request": {"url": url, "headers": WIRED, "body": CONTENT} | token | fields}


TOKEN = {"oidc_token": {"service_account_email": ACCOUNT, "audience": AUDIENCE}}
URL = call().url
DIRECT_HEADERS = {"content-type": "text/plain", "X-A": "é", **HEADERS}


def direct(method: str, token: dict[str, Any], **body: bytes) -> dict[str, Any]:
    return {"http_request": {"url": URL, "http_method": method, "headers": DIRECT_HEADERS, **token, **body}}


@pytest.mark.parametrize(
    ("worker", "audience", "create", "task"),
    [
        (DEFAULT, AUDIENCE, created, app_engine({}) | {"dispatch_deadline": 615.0}),
        (OTHER, None, created, app_engine({"service": "relay"}) | {"dispatch_deadline": 615.0}),
        (RUN, AUDIENCE, created, over_http(TOKEN) | {"dispatch_deadline": 615.0}),
        (
            RUN,
            None,
            created,
            over_http({"oidc_token": {"service_account_email": ACCOUNT}}) | {"dispatch_deadline": 615.0},
        ),
        (DEFAULT, None, lambda t: created(t, AT), app_engine({}) | {"dispatch_deadline": 615.0, "schedule_time": AT}),
        (DEFAULT, None, lambda t: created(t, 0.0), app_engine({}) | {"dispatch_deadline": 615.0, "schedule_time": 0.0}),
        (DEFAULT, None, lambda t: created(t, None, 0.5), app_engine({}) | {"dispatch_deadline": 15.5}),
        (DEFAULT, None, created_direct, direct("POST", {}) | {"dispatch_deadline": 600.0}),
        (
            RUN,
            AUDIENCE,
            lambda t: created_direct(t, "https://a/", AT, method="DELETE", body=b"\0x", timeout=86_400.0),
            direct("DELETE", {"oidc_token": TOKEN["oidc_token"] | {"audience": "https://a/"}}, body=b"\0x")
            | {"dispatch_deadline": 1800.0, "schedule_time": AT},
        ),
        (DEFAULT, None, lambda t: created_direct(t, timeout=1.0), direct("POST", {}) | {"dispatch_deadline": 15.0}),
    ],
    ids=range(10),
)
def test_a_request_equals_the_one_of_googles_client(
    worker: TaskTarget, audience: str | None, create: Callable[[CloudTasks], bool], task: dict[str, Any]
) -> None:
    with TaskService() as service, tasks_of(service, worker, audience) as tasks:
        assert create(tasks)
        kinds = {"dispatch_deadline": duration_pb2.Duration, "schedule_time": timestamp_pb2.Timestamp}
        times = {name: in_time(kind, task[name]) for name, kind in kinds.items() if name in task}
        transport = CloudTasksGrpcTransport(channel=grpc.insecure_channel(service.address))
        with tasks_v2.CloudTasksClient(transport=transport) as client:
            client.create_task(parent=f"{PREFIX}/relay", task={"name": NAME, **task, **times})
    ours, theirs = service.created
    assert ours.request == theirs.request
    assert ours.request.SerializeToString(deterministic=True) == theirs.request.SerializeToString(deterministic=True)
    assert (ours.path, ours.metadata) == (theirs.path, theirs.metadata)
    assert {"x-goog-api-client", "x-goog-request-params"} == {name for name, _ in ours.metadata}
    assert abs(ours.seconds - REQUEST_TIMEOUT) < 1


def in_time(kind: Any, seconds: float) -> Any:
    whole, nanos = divmod(round(seconds * 1e9), 10**9)
    return kind(seconds=whole, nanos=nanos)


def test_a_request_carries_the_transports_credentials(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    chain = authority.chain("localhost").read_bytes()
    with TaskService(credentials=grpc.ssl_server_credentials([(chain, chain)])) as service:
        transport = CloudTasksGrpcTransport(
            host=f"localhost:{service.port}",
            credentials=Credentials("an-access-token", quota_project_id="payer"),
            ssl_channel_credentials=grpc.ssl_channel_credentials(authority.certificate.read_bytes()),
        )
        with tasks_of(service, transport=transport) as tasks:
            assert created(tasks)
            tasks_v2.CloudTasksClient(transport=transport).create_task(parent=f"{PREFIX}/relay", task={"name": NAME})
    ours, theirs = (sorted(request.metadata) for request in service.created)
    assert ours == theirs
    assert {("authorization", "Bearer an-access-token"), ("x-goog-user-project", "payer")} < set(ours)


TEMPORARY = [
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
]


def test_temporary_failures_are_retried() -> None:
    with TaskService(TEMPORARY.copy()) as service, tasks_of(service) as tasks:
        assert created(tasks)
    assert len(service.created) == 5
    assert len({request.request.task.name for request in service.created}) == 1


@pytest.mark.parametrize("before", [[], [grpc.StatusCode.UNAVAILABLE]], ids=["first", "retried"])
def test_a_task_that_exists_is_not_created(before: list[grpc.StatusCode]) -> None:
    with TaskService([*before, grpc.StatusCode.ALREADY_EXISTS]) as service, tasks_of(service) as tasks:
        assert not created(tasks)
        assert created_direct(tasks)
    assert len(service.created) == len(before) + 2


@pytest.mark.parametrize(
    ("code", "error", "text"),
    [
        *(
            (code, EnqueueFailed, "Cloud Tasks refused: as it was told")
            for code in (
                grpc.StatusCode.NOT_FOUND,
                grpc.StatusCode.PERMISSION_DENIED,
                grpc.StatusCode.UNAUTHENTICATED,
                grpc.StatusCode.INVALID_ARGUMENT,
                grpc.StatusCode.FAILED_PRECONDITION,
                grpc.StatusCode.OUT_OF_RANGE,
                grpc.StatusCode.UNIMPLEMENTED,
            )
        ),
        (grpc.StatusCode.INTERNAL, Unavailable, "Cloud Tasks did not confirm the request: InternalServerError"),
        (grpc.StatusCode.UNKNOWN, Unavailable, "Cloud Tasks did not confirm the request: Unknown"),
        (grpc.StatusCode.CANCELLED, Unavailable, "Cloud Tasks did not confirm the request: Cancelled"),
        (grpc.StatusCode.DATA_LOSS, Unavailable, "Cloud Tasks did not confirm the request: DataLoss"),
    ],
)
def test_other_failures_are_raised_at_once(code: grpc.StatusCode, error: type[Exception], text: str) -> None:
    with TaskService([code]) as service, tasks_of(service) as tasks, pytest.raises(error) as raised:
        created(tasks)
    assert str(raised.value) == text
    assert len(service.created) == 1
