"""Cloud Trace's API on loopback, over gRPC, as its exporter speaks it: takes spans, refuses them, or never answers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Condition, Event
from typing import TYPE_CHECKING, Any, Self

import grpc
from google.cloud.trace_v2.types import BatchWriteSpansRequest
from google.protobuf.empty_pb2 import Empty

from traced_relay.tracing.span_tree import FinishedSpan, SpanNode, tree_of

if TYPE_CHECKING:
    from collections.abc import Callable


class TraceService:
    """*refuses* with that status; while it *hangs* nothing is answered."""

    def __init__(self, *, refuses: grpc.StatusCode | None = None, hangs: bool = False) -> None:
        self.spans: list[Any] = []
        self.requests: list[Any] = []
        self.arrived = Event()
        self._refuses = refuses
        self._released = Event()
        self._changed = Condition()
        if not hangs:
            self._released.set()
        self._server = grpc.server(ThreadPoolExecutor(4))
        handler = grpc.unary_unary_rpc_method_handler(
            self._take, BatchWriteSpansRequest.deserialize, Empty.SerializeToString
        )
        name = "google.devtools.cloudtrace.v2.TraceService"
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(name, {"BatchWriteSpans": handler})]
        )
        self.endpoint = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def _take(self, request: Any, context: grpc.ServicerContext) -> Empty:
        self.arrived.set()
        self._released.wait(30)
        if self._refuses is not None:
            context.abort(self._refuses, "as the test wants it")
        with self._changed:
            self.requests.append(request)
            self.spans += request.spans
            self._changed.notify_all()
        return Empty()

    def wait_until(self, is_so: Callable[[], bool], seconds: float = 10.0) -> None:
        with self._changed:
            assert self._changed.wait_for(is_so, seconds), [span.display_name.value for span in self.spans]

    def wait_for(self, *names: str) -> None:
        """Until at least so many spans of each name are there."""
        self.wait_until(lambda: all(self.names().count(name) >= names.count(name) for name in names))

    def names(self) -> list[str]:
        return [span.display_name.value for span in self.spans]

    def tree(self, trace_id: str) -> list[Any]:
        """The trace as it was received: kind and name, with what is under it."""
        found = [finished(span) for span in self.spans if span.name.split("/")[3] == trace_id]
        return [outline(node) for node in tree_of(found)]

    def release(self) -> None:
        self._released.set()

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._server.stop(0).wait(5)


def finished(span: Any) -> FinishedSpan:
    return FinishedSpan(
        name=span.display_name.value,
        kind=span.span_kind.name,
        trace_id=span.name.split("/")[3],
        span_id=span.span_id,
        parent_id=span.parent_span_id or None,
        start=span.start_time.timestamp(),
        end=span.end_time.timestamp(),
        status="ERROR" if span.status.code else "UNSET",
        attributes=attributes_of(span),
        links=tuple((link.trace_id, link.span_id) for link in span.links.link),
    )


def attributes_of(span: Any) -> dict[str, Any]:
    return {name: value_of(value) for name, value in span.attributes.attribute_map.items()}


def value_of(value: Any) -> Any:
    which = value._pb.WhichOneof("value")
    return value.string_value.value if which == "string_value" else getattr(value, which)


def outline(node: SpanNode) -> Any:
    return (f"{node.span.kind} {node.span.name}", *[outline(child) for child in node.children])
