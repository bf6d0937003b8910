"""
Cloud Logging's API on loopback, over gRPC: keeps entries, and lists those that a filter finds.

A filter is judged by the reader of the query language that the monitoring files are judged by.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

import grpc
from google.cloud.logging_v2.types import ListLogEntriesRequest, ListLogEntriesResponse, LogEntry
from google.protobuf.json_format import ParseDict

from support import log_query
from support.log_entry import lift
from traced_relay.formats.durations import format_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PROJECT = "test-project"
QUEUE_LOG = f"projects/{PROJECT}/logs/cloudtasks.googleapis.com%2Ftask_operations_log"


class LogService:
    """Answers pages of at most *page* entries; what is in *troubles*, None for nothing, comes first."""

    def __init__(self, *, page: int = 1000, troubles: Iterable[grpc.StatusCode | None] = ()) -> None:
        self.entries: list[dict[str, Any]] = []
        self.requests: list[Any] = []
        self.troubles = list(troubles)
        self.answer: Callable[[Any, grpc.ServicerContext], Any] = self._list
        self._page = page
        self._lock = Lock()
        self._server = grpc.server(ThreadPoolExecutor(4))
        handler = grpc.unary_unary_rpc_method_handler(
            lambda request, context: self.answer(request, context),
            ListLogEntriesRequest.deserialize,
            ListLogEntriesResponse.serialize,
        )
        name = "google.logging.v2.LoggingServiceV2"
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, {"ListLogEntries": handler})])
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)])

    def take(self, records: Iterable[dict[str, Any]]) -> None:
        """What a relay printed, as entries."""
        for record in records:
            self.add(lift(json.dumps(record)) | {"logName": f"projects/{PROJECT}/logs/stdout"})

    def add(self, entry: dict[str, Any]) -> None:
        with self._lock:
            self.entries.append({"insertId": f"made-{len(self.entries)}"} | entry)

    def _list(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._lock:
            self.requests.append(request)
            if self.troubles and (trouble := self.troubles.pop(0)) is not None:
                context.abort(trouble, "as the test wants it")
            if list(request.resource_names) != [f"projects/{PROJECT}"]:
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "not this project")
            try:
                query = log_query.read(request.filter, log_query.READING)
            except log_query.NotUnderstood as exc:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"Unparseable filter: {exc}")
            found = sorted((e for e in self.entries if query.matches(e)), key=lambda entry: entry["timestamp"])
        start, size = int(request.page_token or 0), min(self._page, request.page_size)
        following = str(start + size) if start + size < len(found) else ""
        page = [_entry(entry) for entry in found[start : start + size]]
        return ListLogEntriesResponse(entries=page, next_page_token=following)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()
        self._server.stop(0).wait(5)


def queue_entry(task: str, at: float, kind: str, **said: Any) -> dict[str, Any]:
    """What Cloud Tasks writes of a task into its own log."""
    payload = {"task": task, kind: said, "@type": "type.googleapis.com/google.cloud.tasks.logging.v1.TaskActivityLog"}
    return {
        "logName": QUEUE_LOG,
        "resource": {"type": "cloud_tasks_queue", "labels": {"queue_id": task.split("/")[5]}},
        "timestamp": format_time(at),
        "severity": "ERROR" if said.get("status", "OK") != "OK" else "INFO",
        "jsonPayload": payload,
    }


def _entry(entry: dict[str, Any]) -> LogEntry:
    made = LogEntry()
    ParseDict(entry, LogEntry.pb(made))
    return made
