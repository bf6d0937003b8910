"""`traced-relay queue` and `traced-relay serve` in local mode, with a caller's token: the product as deployed."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from bench.processes import READY_SECONDS, NotReady, Server, free_port, module

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PROJECT, LOCATION = "bench", "us-central1"
HELD, LIVE = (f"projects/{PROJECT}/locations/{LOCATION}/queues/{name}" for name in ("held", "live"))
_AUDIENCE = "https://relay.example.com"
_CALLER = "caller@bench.iam.gserviceaccount.com"
_RULES = """
location: {location}
queues:
{queues}
worker: {{app_engine: default}}
audience: {audience}
callers:
  - {{email: {caller}, queues: "*", downstreams: "*"}}
downstreams:
  - {{name: sink, url: "{url}/", auth: none, allow_private: true}}
"""


_QUEUE = "  - {{name: {name}, max_dispatches_per_second: 500, max_concurrent_dispatches: 1000}}"


class Queue(Server):
    """The embedded queue, durable if *data* names a file; App Engine tasks go to *worker_port*."""

    def __init__(self, directory: Path, *, data: str | None = None, worker_port: int | None = None) -> None:
        port = free_port()
        options = [f"--port={port}", f"--rest-port={free_port()}"]
        options += [f"--data={directory / data}"] if data else []
        options += [f"--app-engine=default=http://127.0.0.1:{worker_port}"] if worker_port else []
        super().__init__(module("traced_relay", "queue", *options), port=port, directory=directory)
        self.address = f"127.0.0.1:{port}"

    def token(self) -> str:
        command = module("traced_relay", "queue", "token", _CALLER, f"--audience={_AUDIENCE}", f"--port={self.port}")
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


class RelayServer(Server):
    """`traced-relay serve` with this *ledger*; its records go to a file."""

    def __init__(
        self,
        directory: Path,
        *,
        ledger: str,
        queue: Queue,
        downstream: str,
        port: int,
        command: list[str] | None = None,
        queues: Sequence[str] = ("held", "live"),
        **variables: str,
    ) -> None:
        rules = directory / "relay.yaml"
        named = "\n".join(_QUEUE.format(name=name) for name in queues)
        content = _RULES.format(location=LOCATION, audience=_AUDIENCE, caller=_CALLER, url=downstream, queues=named)
        rules.write_text(content)
        environ = {
            "RELAY_CONFIG": str(rules),
            "RELAY_LEDGER": ledger,
            "CLOUD_TASKS_EMULATOR_HOST": queue.address,
            "GOOGLE_CLOUD_PROJECT": PROJECT,
            "PORT": str(port),
            **variables,
        }
        self._url = f"http://127.0.0.1:{port}"
        super().__init__(command or module("traced_relay", "serve"), port=port, directory=directory, environ=environ)

    def wait_ready(self) -> None:
        """Until it takes work, which it does once its queues are there."""
        self.wait()
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self._url}/ready", timeout=5).close()
            except urllib.error.HTTPError:
                time.sleep(0.05)
            else:
                return
        raise NotReady(f"the relay on {self._url} does not become ready")

    def enqueue(self, calls: list[dict[str, Any]], token: str) -> list[dict[str, Any]]:
        """The receipts of up to a hundred calls."""
        request = urllib.request.Request(
            f"{self._url}/v1/tasks:batch",
            json.dumps({"tasks": calls}).encode(),
            {"content-type": "application/json", "authorization": f"Bearer {token}"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            receipts: list[dict[str, Any]] = json.load(answer)["tasks"]
        assert all("task_id" in receipt for receipt in receipts), receipts
        return receipts
