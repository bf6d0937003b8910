"""Google's client for Node, over gRPC and over its REST fallback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.parts import require, without

if TYPE_CHECKING:
    from support.worker import Worker
    from traced_relay.emulator.emulator import LocalQueue

HERE = Path(__file__).parent / "node"
LOCATION = "projects/p/locations/europe-west1"
pytestmark = [pytest.mark.whole, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script, in a copy of its own where its locked dependencies are installed."""
    require("node")
    npm = require("npm")
    copy = tmp_path_factory.mktemp("node")
    for name in ("package.json", "package-lock.json", ".npmrc", "drive.mjs"):
        shutil.copy(HERE / name, copy)
    install = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    installed = subprocess.run(install, cwd=copy, capture_output=True, text=True, timeout=150, check=False)
    if installed.returncode and "CI" not in os.environ:
        without("@google-cloud/tasks for node", f"npm ci failed: {installed.stderr[-300:]}")
    assert installed.returncode == 0, installed.stderr
    return copy / "drive.mjs"


def drive(script: Path, transport: str, port: str, worker: Worker) -> dict[str, Any]:
    command = ["node", str(script), transport, port, worker.url]
    offline = os.environ | {"METADATA_SERVER_DETECTION": "none"}
    driven = subprocess.run(command, env=offline, capture_output=True, text=True, timeout=60, check=False)
    assert driven.returncode == 0, driven.stderr
    return dict(json.loads(driven.stdout))


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_the_node_client_works_with_queues_and_tasks(
    script: Path, local: LocalQueue, worker: Worker, transport: str
) -> None:
    address = local.address if transport == "grpc" else local.rest_url
    seen = drive(script, transport, address.rpartition(":")[2], worker)
    queue = f"{LOCATION}/queues/node-{transport}"
    (arrival,) = worker.wait_for(1)
    assert (arrival.method, arrival.path, arrival.body) == ("PUT", "/node", b'{"report": 7}')
    assert seen == {
        "created": [queue, "RUNNING", 3],
        "again": ["ALREADY_EXISTS", "Queue already exists"],
        "paused": "PAUSED",
        "updated": [7, 3],
        "queues": [queue],
        "task": [f"{queue}/tasks/first", '{"report": 7}', 30],
        "taken": ["ALREADY_EXISTS", "Requested entity already exists"],
        "badId": [
            "INVALID_ARGUMENT",
            (
                'Task ID "not a valid id" can contain only letters ([A-Za-z]), numbers ([0-9]), hyphens (-), '
                "or underscores (_). Task ID must between 1 and 500 characters."
            ),
        ],
        "basic": 0,
        "tasks": [f"{queue}/tasks/{task_id}" for task_id in ("first", "second", "third")],
        "deleted": [
            "NOT_FOUND",
            (
                "The task no longer exists, though a task with this name existed recently. "
                "The task either successfully completed or was deleted."
            ),
        ],
        "resumed": "RUNNING",
        "policy": ["UNIMPLEMENTED", "GetIamPolicy is not implemented by the embedded queue."],
        "gone": [
            "NOT_FOUND",
            (
                "Queue does not exist. "
                "If you just created the queue, wait at least a minute for the queue to initialize."
            ),
        ],
    }
