"""A server of CreateTask alone, which keeps what it gets and fails as it is told."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import grpc
from google.cloud import tasks_v2

if TYPE_CHECKING:
    from collections.abc import Sequence

_OWN = ("user-agent",)


@dataclass(frozen=True)
class Created:
    """One request: the method's path, its message, its metadata, and the seconds that were left for it."""

    path: str
    request: Any
    metadata: Sequence[tuple[str, str | bytes]]
    seconds: float


@dataclass
class TaskService(grpc.GenericRpcHandler):
    """Fails with *failures*, one after another, and then succeeds."""

    failures: list[grpc.StatusCode] = field(default_factory=list)
    credentials: grpc.ServerCredentials | None = None
    created: list[Created] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._server = grpc.server(ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers([self])
        if self.credentials is None:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            self.port = self._server.add_secure_port("127.0.0.1:0", self.credentials)
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        path = str(handler_call_details.method)

        def create(request: Any, context: grpc.ServicerContext) -> Any:
            metadata = [(name, value) for name, value in context.invocation_metadata() if name not in _OWN]
            self.created.append(Created(path, request, metadata, context.time_remaining()))
            if self.failures:
                context.abort(self.failures.pop(0), "as it was told")
            return request.task

        return grpc.unary_unary_rpc_method_handler(
            create, tasks_v2.CreateTaskRequest.pb().FromString, tasks_v2.Task.pb().SerializeToString
        )
