"""A gRPC server whose CreateTask returns the task and does nothing else."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
from google.cloud.tasks_v2.types import CreateTaskRequest, Task

from bench.processes import Server, free_port, module

if TYPE_CHECKING:
    from pathlib import Path

THREADS = 16  # as many as the embedded queue's


class BareGrpc(Server):
    """The process that runs this file."""

    def __init__(self, directory: Path) -> None:
        port = free_port()
        super().__init__(module("bench.bare_grpc", str(port)), port=port, directory=directory)
        self.address = f"127.0.0.1:{port}"


def _serve(port: int) -> None:
    request, task = CreateTaskRequest.pb(), Task.pb()
    echo = grpc.unary_unary_rpc_method_handler(
        lambda asked, _: asked.task,
        request_deserializer=request.FromString,
        response_serializer=task.SerializeToString,
    )
    server = grpc.server(ThreadPoolExecutor(THREADS))
    handler = grpc.method_handlers_generic_handler("google.cloud.tasks.v2.CloudTasks", {"CreateTask": echo})
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
