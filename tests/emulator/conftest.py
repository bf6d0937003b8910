"""A running queue, Google's client over either wire, and a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud.tasks_v2 import CloudTasksClient
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from support.worker import Worker
from traced_relay.emulator.emulator import LocalQueue

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCATION = "projects/p/locations/europe-west1"
QUEUE = f"{LOCATION}/queues/reports"


@pytest.fixture
def local() -> Iterator[LocalQueue]:
    with LocalQueue() as running:
        yield running


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker() as running:
        yield running


@pytest.fixture
def channel(local: LocalQueue) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(local.address) as opened:
        yield opened


@pytest.fixture
def grpc_client(channel: grpc.Channel) -> CloudTasksClient:
    return CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))


@pytest.fixture
def rest_client(local: LocalQueue) -> Iterator[CloudTasksClient]:
    with CloudTasksClient(
        transport="rest",
        credentials=AnonymousCredentials(),
        client_options=ClientOptions(api_endpoint=local.rest_url),
    ) as client:
        yield client


@pytest.fixture(params=["grpc", "rest"])
def client(request: pytest.FixtureRequest) -> CloudTasksClient:
    return request.getfixturevalue(f"{request.param}_client")
