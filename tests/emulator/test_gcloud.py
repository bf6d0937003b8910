"""`gcloud tasks` with its endpoint turned to the queue's REST surface."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from support.parts import require

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.worker import Worker
    from traced_relay.emulator.emulator import LocalQueue

pytestmark = [pytest.mark.whole, pytest.mark.timeout(180)]
QUEUE = "projects/demo/locations/europe-west1/queues/reports"


@pytest.fixture
def gcloud(local: LocalQueue, tmp_path: Path) -> Callable[..., Any]:
    program = require("gcloud")
    environ = os.environ | {
        "CLOUDSDK_CONFIG": str(tmp_path),
        "CLOUDSDK_CORE_PROJECT": "demo",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
        "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDTASKS": f"{local.rest_url}/",
    }

    def run(*arguments: str) -> Any:
        command = [program, "tasks", *arguments, "--location=europe-west1", "--format=json"]
        ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
        if ran.returncode:
            return ran.stderr
        return json.loads(ran.stdout or "null")

    return run


def test_gcloud_manages_a_queue_from_creation_to_deletion(gcloud: Callable[..., Any]) -> None:
    gcloud("queues", "create", "reports", "--max-concurrent-dispatches=5", "--max-attempts=3", "--min-backoff=5s")
    described = gcloud("queues", "describe", "reports")
    assert (described["name"], described["state"]) == (QUEUE, "RUNNING")
    assert described["rateLimits"]["maxConcurrentDispatches"] == 5
    assert described["retryConfig"] | {"maxAttempts": 3, "minBackoff": "5s"} == described["retryConfig"]

    gcloud("queues", "update", "reports", "--max-attempts=4", "--max-dispatches-per-second=50")
    (listed,) = gcloud("queues", "list")
    assert (listed["retryConfig"]["maxAttempts"], listed["retryConfig"]["minBackoff"]) == (4, "5s")
    assert listed["rateLimits"]["maxDispatchesPerSecond"] == 50

    gcloud("queues", "pause", "reports")
    assert gcloud("queues", "describe", "reports")["state"] == "PAUSED"
    gcloud("queues", "purge", "reports")
    gcloud("queues", "resume", "reports")
    assert gcloud("queues", "describe", "reports")["state"] == "RUNNING"

    gcloud("queues", "delete", "reports")
    assert "NOT_FOUND: Queue does not exist" in gcloud("queues", "describe", "reports")


def test_gcloud_creates_shows_runs_and_deletes_tasks(
    local: LocalQueue, gcloud: Callable[..., Any], worker: Worker
) -> None:
    local.add_queue(QUEUE)
    local.route_app_engine("default", worker.url)
    gcloud("queues", "pause", "reports")

    http = ("create-http-task", "one", "--queue=reports", f"--url={worker.url}/one")
    created = gcloud(*http, "--method=PUT", "--header=X-A: 1", "--body-content=hello")
    assert (created["name"], created["httpRequest"]["httpMethod"]) == (f"{QUEUE}/tasks/one", "PUT")
    gcloud("create-app-engine-task", "two", "--queue=reports", "--relative-uri=/two", "--body-content=hello")
    assert sorted(task["name"] for task in gcloud("list", "--queue=reports")) == [
        f"{QUEUE}/tasks/one",
        f"{QUEUE}/tasks/two",
    ]
    described = gcloud("describe", "one", "--queue=reports", "--response-view=full")
    assert described["httpRequest"]["body"] == "aGVsbG8="
    assert "ALREADY_EXISTS: Requested entity already exists" in gcloud(*http)

    gcloud("run", "one", "--queue=reports")
    (arrival,) = worker.wait_for(1)
    assert (arrival.method, arrival.path, arrival.body, arrival.headers["x-a"]) == ("PUT", "/one", b"hello", "1")
    gcloud("delete", "two", "--queue=reports")
    assert "NOT_FOUND: The task no longer exists" in gcloud("describe", "two", "--queue=reports")
