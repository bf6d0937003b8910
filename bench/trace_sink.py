"""A stand-in for Cloud Trace's API: accepts every batch, rejects every batch, or never responds."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TYPE_CHECKING

import grpc

from bench.processes import Server, free_port, module

if TYPE_CHECKING:
    from pathlib import Path

TAKES, REFUSES, DENIES, HANGS = "takes", "refuses", "denies", "hangs"
_STATUS = {REFUSES: grpc.StatusCode.UNAVAILABLE, DENIES: grpc.StatusCode.PERMISSION_DENIED}


class TraceSink(Server):
    """The process that runs this file."""

    def __init__(self, directory: Path, behaviour: str = TAKES) -> None:
        port = free_port()
        super().__init__(module("bench.trace_sink", str(port), behaviour), port=port, directory=directory)
        self.address = f"127.0.0.1:{port}"


def _serve(port: int, behaviour: str) -> None:
    def take(_: bytes, context: grpc.ServicerContext) -> bytes:
        if status := _STATUS.get(behaviour):
            context.abort(status, "not this one")
        if behaviour == HANGS:
            Event().wait(60)
        return b""

    server = grpc.server(ThreadPoolExecutor(16))
    handler = grpc.unary_unary_rpc_method_handler(take)
    name = "google.devtools.cloudtrace.v2.TraceService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"BatchWriteSpans": handler}),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2])
