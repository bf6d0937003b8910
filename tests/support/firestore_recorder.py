"""Stands before the emulator, passes everything on as it is, and keeps what was asked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import grpc
from google.cloud.firestore_v1 import types

if TYPE_CHECKING:
    from collections.abc import Callable

ANSWERS_ONCE = ("Commit", "Rollback", "BeginTransaction")


class Recorder(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A server on *address*; *asked* are the methods and requests in their order."""

    def __init__(self, emulator: str) -> None:
        self.asked: list[tuple[str, bytes]] = []
        self._channel = grpc.insecure_channel(emulator)
        self._server = grpc.server(ThreadPoolExecutor(4), handlers=[self])
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def service(self, call: Any) -> Any:
        method = call.method
        if method.rpartition("/")[2] in ANSWERS_ONCE:
            return grpc.unary_unary_rpc_method_handler(self._passing(method, self._channel.unary_unary(method)))
        return grpc.unary_stream_rpc_method_handler(self._passing(method, self._channel.unary_stream(method)))

    def _passing(self, method: str, onward: Callable[..., Any]) -> Callable[[bytes, Any], Any]:
        def passed(request: bytes, context: grpc.ServicerContext) -> Any:
            self.asked.append((method.rpartition("/")[2], request))
            metadata = [
                (key, value) for key, value in context.invocation_metadata() if key.startswith(("x-", "google-"))
            ]
            try:
                return onward(request, metadata=metadata, timeout=10)
            except grpc.RpcError as exc:
                context.abort(exc.code(), exc.details())

        return passed

    def queries(self) -> list[types.StructuredQuery]:
        """All queries, those that were only counted too."""
        found = []
        for method, request in self.asked:
            if method == "RunQuery":
                found.append(types.RunQueryRequest.deserialize(request).structured_query)
            elif method == "RunAggregationQuery":
                counted = types.RunAggregationQueryRequest.deserialize(request).structured_aggregation_query
                found.append(counted.structured_query)
        return found

    def cost(self) -> tuple[int, int]:
        """Documents asked for by name, and documents written, since the last time; queries are not in it."""
        asked, self.asked = self.asked, []
        read = [
            types.BatchGetDocumentsRequest.deserialize(sent) for method, sent in asked if method == "BatchGetDocuments"
        ]
        written = [types.CommitRequest.deserialize(sent) for method, sent in asked if method == "Commit"]
        return sum(len(each.documents) for each in read), sum(len(each.writes) for each in written)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(1).wait(5)
        self._channel.close()
