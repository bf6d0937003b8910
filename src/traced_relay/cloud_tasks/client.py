"""Cloud Tasks through Google's client library; its errors become EnqueueFailed or Unavailable."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import grpc
import msgspec
from google.api_core import exceptions, gapic_v1, grpc_helpers, retry
from google.api_core.exceptions import AlreadyExists, GoogleAPICallError, RetryError
from google.auth.exceptions import GoogleAuthError
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport
from google.cloud.tasks_v2.services.cloud_tasks.transports.base import DEFAULT_CLIENT_INFO
from google.protobuf import empty_pb2, wrappers_pb2

from traced_relay.errors import EnqueueFailed, Unavailable, map_exceptions
from traced_relay.formats.durations import format_time

if TYPE_CHECKING:
    from collections.abc import Mapping

    from traced_relay.config.relay_yaml import TaskTarget
    from traced_relay.tasks.call import Call
    from traced_relay.tasks.row import Row

SLACK = 15.0  # seconds that the queue waits beyond the attempt's timeout, so that the worker responds first
MIN_DEADLINE = 15.0  # of Cloud Tasks, like the next
MAX_DEADLINE_HTTP = 1800.0
REQUEST_TIMEOUT = 5.0  # seconds for one request
TOTAL_TIMEOUT = 10.0  # seconds for a request and its retries

_TEMPORARY = (
    exceptions.ServiceUnavailable,
    exceptions.DeadlineExceeded,
    exceptions.Aborted,
    exceptions.ResourceExhausted,
)
_with_retries = retry.Retry(
    retry.if_exception_type(*_TEMPORARY), initial=0.1, maximum=2.0, multiplier=2.0, timeout=TOTAL_TIMEOUT
)
# After these no task exists, and a retry fails again. After any other error the task may exist.
_FINAL = (
    exceptions.NotFound,
    exceptions.Forbidden,
    exceptions.Unauthorized,
    exceptions.BadRequest,  # FailedPrecondition and OutOfRange too
    exceptions.MethodNotImplemented,
)
_mapped_errors = partial(
    map_exceptions,
    (_FINAL, lambda exc: EnqueueFailed(f"Cloud Tasks refused: {exc.message}")),
    (
        (RetryError, GoogleAPICallError, GoogleAuthError, ValueError),  # ValueError: the channel is closed
        lambda exc: Unavailable(f"Cloud Tasks did not confirm the request: {type(exc).__name__}"),
    ),
)


@dataclass(frozen=True)
class QueueStats:
    """Statistics of a queue, with Cloud Tasks' names; None for those that it does not report."""

    state: str | None = None
    max_dispatches_per_second: float | None = None
    max_concurrent_dispatches: int | None = None
    tasks_count: int | None = None
    oldest_estimated_arrival_time: str | None = None
    executed_last_minute_count: int | None = None
    concurrent_dispatches_count: int | None = None


_READ_MASK = {"paths": ["state", "rate_limits", "stats"]}  # Cloud Tasks reports statistics only if they are named
_STATES = {int(state): name for name, state in tasks_v2.Queue.State.__members__.items() if state}
_info: Any = DEFAULT_CLIENT_INFO  # untyped, like the next two
_routing: Any = gapic_v1.routing_header
_helpers: Any = grpc_helpers
_CLIENT_INFO = _info.to_grpc_metadata()
_CREATE_TASK = "/google.cloud.tasks.v2.CloudTasks/CreateTask"
_Request: Any = tasks_v2.CreateTaskRequest.pb()  # protobuf's own class: proto-plus takes several times as long


class CloudTasks:
    """
    Creates and deletes tasks of one worker, in the queues of one project and location.

    The *transport* replaces Google's own, which uses the environment's credentials, or the *emulator*'s.
    """

    def __init__(
        self,
        *,
        queue_prefix: str,
        worker: TaskTarget,
        audience: str | None,
        emulator: str | None,
        transport: CloudTasksGrpcTransport | None = None,
    ) -> None:
        self._queue_prefix = queue_prefix
        self._worker = worker
        self._audience = audience
        # Callers and dispatches wait for this channel, so it must not back off for minutes after an outage.
        options = [("grpc.max_reconnect_backoff_ms", 1000), ("grpc.initial_reconnect_backoff_ms", 100)]
        options.append(("grpc.enable_http_proxy", 0))
        self._channel = grpc.insecure_channel(emulator, options) if emulator else None
        transport = CloudTasksGrpcTransport(channel=self._channel) if self._channel else transport
        with _mapped_errors():
            self._client = tasks_v2.CloudTasksClient(transport=transport)
        # The client's layers cost as much as the call. The response is the task that was sent, so it is not parsed.
        stub = self._open_channel.unary_unary(_CREATE_TASK, request_serializer=_Request.SerializeToString)
        self._create_task = _with_retries(_helpers.wrap_errors(stub))

    @property
    def _open_channel(self) -> grpc.Channel:
        transport: Any = self._client.transport
        channel: grpc.Channel = transport.grpc_channel
        return channel

    @cached_property
    def _beta(self) -> Any:
        """The beta API of the same service, which alone has statistics; loaded when they are first wanted."""
        from google.cloud import tasks_v2beta3
        from google.cloud.tasks_v2beta3.services.cloud_tasks.transports import CloudTasksGrpcTransport

        return tasks_v2beta3.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=self._open_channel))

    def task_name(self, queue: str, task: str) -> str:
        return f"{self._queue_prefix}/{queue}/tasks/{task}"

    def create(self, row: Row, *, name: str, at: float | None, headers: Mapping[str, str]) -> bool:
        """Create the task that *row* awaits, due *at* (epoch seconds; None: now); False if its name is taken."""
        request = self._request(row.queue, name, max(row.call.timeout + SLACK, MIN_DEADLINE), at)
        if self._worker.app_engine is not None:
            target = request.task.app_engine_http_request
            target.relative_uri = "/dispatch"
            target.app_engine_routing.service = "" if self._worker.app_engine == "default" else self._worker.app_engine
        else:
            target = request.task.http_request
            target.url = f"{str(self._worker.url).rstrip('/')}/dispatch"
            _set_token(target, self._worker.service_account, self._audience)
        target.body = msgspec.json.encode({"task_id": row.task_id, "attempt": row.awaited})
        target.headers.update({"content-type": "application/json", **headers})
        return self._create(request)

    def create_direct(
        self,
        *,
        queue: str,
        name: str,
        at: float | None,
        call: Call,
        added: Mapping[str, str],
        service_account: str,
        audience: str | None,
    ) -> bool:
        """
        Create the HTTP task that is the call itself, with *added* headers; False if its name is taken.

        Cloud Tasks sends an ID token of *service_account* for the *audience*, none without one.
        """
        request = self._request(queue, name, min(max(call.timeout, MIN_DEADLINE), MAX_DEADLINE_HTTP), at)
        target = request.task.http_request
        target.url, target.http_method, target.body = call.url, tasks_v2.HttpMethod.__members__[call.method], call.body
        target.headers.update({**call.headers, **added})
        if audience is not None:
            _set_token(target, service_account, audience)
        return self._create(request)

    def _request(self, queue: str, name: str, deadline: float, at: float | None) -> Any:
        request = _Request(parent=f"{self._queue_prefix}/{queue}")
        request.task.name = name
        _set_time(request.task.dispatch_deadline, deadline)
        if at is not None:
            _set_time(request.task.schedule_time, at)
        return request

    def _create(self, request: Any) -> bool:
        """Create a task, with retries. They are safe because of its name: a task that exists counts as created."""
        routing = _routing.to_grpc_metadata((("parent", request.parent),))
        with _mapped_errors():
            try:
                self._create_task(request, timeout=REQUEST_TIMEOUT, metadata=(_CLIENT_INFO, routing))
            except AlreadyExists:
                return False
        return True

    def delete(self, task_name: str) -> None:
        """Delete a task if it is still in its queue."""
        with _mapped_errors(), suppress(exceptions.NotFound):
            self._client.delete_task(name=task_name, retry=None, timeout=REQUEST_TIMEOUT)

    def exists(self, task_name: str) -> bool:
        """Whether the task is in its queue, waiting or being dispatched; not if it was completed or purged."""
        with _mapped_errors():
            try:
                self._client.get_task(name=task_name, retry=None, timeout=REQUEST_TIMEOUT)
            except exceptions.NotFound:
                return False
        return True

    def check_queue(self, queue: str) -> None:
        """Raise EnqueueFailed or Unavailable unless the queue exists and Cloud Tasks responds."""
        with _mapped_errors():
            self._client.get_queue(name=f"{self._queue_prefix}/{queue}", retry=None, timeout=REQUEST_TIMEOUT)

    def get_queue_stats(self, queue: str, seconds: float) -> QueueStats:
        """Statistics of *queue*, within *seconds*."""
        request = {"name": f"{self._queue_prefix}/{queue}", "read_mask": _READ_MASK}
        with _mapped_errors():
            found = self._beta.get_queue(request, retry=None, timeout=seconds)._pb
        stats = QueueStats(
            state=_STATES.get(found.state),
            max_dispatches_per_second=found.rate_limits.max_dispatches_per_second or None,
            max_concurrent_dispatches=found.rate_limits.max_concurrent_dispatches or None,
        )
        return replace(stats, **_numbers(found.stats)) if found.HasField("stats") else stats

    def local_certificates(self) -> Mapping[str, str]:
        """Public keys (PEM) of the embedded queue by their id."""
        if self._channel is None:
            raise Unavailable("only an embedded queue serves its keys")
        ask = self._channel.unary_unary(
            "/traced_relay.LocalIdentity/Certificates",
            request_serializer=empty_pb2.Empty.SerializeToString,
            response_deserializer=wrappers_pb2.StringValue.FromString,
        )
        try:
            certificates: dict[str, str] = json.loads(ask(empty_pb2.Empty(), timeout=REQUEST_TIMEOUT).value)
        except (grpc.RpcError, ValueError) as exc:
            raise Unavailable("the embedded queue did not return its keys") from exc
        return certificates

    def close(self) -> None:
        self._open_channel.close()


def _numbers(stats: Any) -> dict[str, Any]:
    oldest = stats.oldest_estimated_arrival_time if stats.HasField("oldest_estimated_arrival_time") else None
    return {
        "tasks_count": stats.tasks_count,
        "oldest_estimated_arrival_time": oldest and format_time(oldest.ToMicroseconds() / 1e6),
        "executed_last_minute_count": stats.executed_last_minute_count,
        "concurrent_dispatches_count": stats.concurrent_dispatches_count,
    }


def _set_time(stored: Any, seconds: float) -> None:
    stored.seconds, stored.nanos = divmod(round(seconds * 1e9), 10**9)


def _set_token(target: Any, service_account: str | None, audience: str | None) -> None:
    target.oidc_token.service_account_email, target.oidc_token.audience = service_account or "", audience or ""
