"""gcloud-tasks-emulator on loopback alone; by itself it listens on every address. Runs in the peers' environment."""

from __future__ import annotations

from typing import Any

import grpc
from gcloud_tasks_emulator.__main__ import main

_server = grpc.server


def _on_loopback(*arguments: Any, **options: Any) -> grpc.Server:
    server = _server(*arguments, **options)
    add = server.add_insecure_port
    server.add_insecure_port = lambda address: add(address.replace("[::]", "127.0.0.1"))
    return server


grpc.server = _on_loopback
main()
