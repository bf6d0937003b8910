"""Cloud Tasks through Google's client library; its errors become EnqueueFailed or Unavailable."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
from google.api_core import exceptions, retry
from google.api_core.exceptions import AlreadyExists, GoogleAPICallError, RetryError
from google.auth.exceptions import GoogleAuthError
from google.cloud import tasks_v2, tasks_v2beta3
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport
from google.cloud.tasks_v2beta3.services.cloud_tasks.transports import CloudTasksGrpcTransport as BetaTransport
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
        (RetryError, GoogleAPICallError, GoogleAuthError),
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
_STATES = {int(state): name for name, state in tasks_v2beta3.Queue.State.__members__.items() if state}


class CloudTasks:
    """Creates and deletes tasks of one worker, in the queues of one project and location."""

    def __init__(self, *, queue_prefix: str, worker: TaskTarget, audience: str | None, emulator: str | None) -> None:
        self._queue_prefix = queue_prefix
        self._worker = worker
        self._audience = audience
        # Callers and dispatches wait for this channel, so it must not back off for minutes after an outage.
        options = [("grpc.max_reconnect_backoff_ms", 1000), ("grpc.initial_reconnect_backoff_ms", 100)]
        options.append(("grpc.enable_http_proxy", 0))
        self._channel = grpc.insecure_channel(emulator, options) if emulator else None
        transport = CloudTasksGrpcTransport(channel=self._channel) if self._channel else None
        with _mapped_errors():
            self._client = tasks_v2.CloudTasksClient(transport=transport)
        opened: Any = self._client.transport
        self._beta = tasks_v2beta3.CloudTasksClient(transport=BetaTransport(channel=opened.grpc_channel))

    def task_name(self, queue: str, task: str) -> str:
        return f"{self._queue_prefix}/{queue}/tasks/{task}"

    def create(self, row: Row, *, name: str, at: float | None, headers: Mapping[str, str]) -> bool:
        """Create the task that *row* awaits, due *at* (epoch seconds; None: now); False if its name is taken."""
        content = json.dumps({"task_id": row.task_id, "attempt": row.awaited}, separators=(",", ":")).encode()
        request = {"headers": {"content-type": "application/json", **headers}, "body": content}
        deadline = max(row.call.timeout + SLACK, MIN_DEADLINE)
        task: dict[str, Any] = {"name": name, "dispatch_deadline": _duration(deadline)}
        if self._worker.app_engine is not None:
            routing = {"service": self._worker.app_engine} if self._worker.app_engine != "default" else {}
            task["app_engine_http_request"] = {"relative_uri": "/dispatch", "app_engine_routing": routing, **request}
        else:
            token = {"service_account_email": self._worker.service_account, "audience": self._audience}
            url = f"{str(self._worker.url).rstrip('/')}/dispatch"
            task["http_request"] = {"url": url, "oidc_token": token, **request}
        return self._create(row.queue, task, at)

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
        request: dict[str, Any] = {"url": call.url, "http_method": call.method, "headers": {**call.headers, **added}}
        if call.body:
            request["body"] = call.body
        if audience is not None:
            request["oidc_token"] = {"service_account_email": service_account, "audience": audience}
        deadline = min(max(call.timeout, MIN_DEADLINE), MAX_DEADLINE_HTTP)
        task = {"name": name, "dispatch_deadline": _duration(deadline), "http_request": request}
        return self._create(queue, task, at)

    def _create(self, queue: str, fields: dict[str, Any], at: float | None) -> bool:
        """Create a task, with retries. They are safe because of its name: a task that exists counts as created."""
        task = tasks_v2.Task(fields)
        if at is not None:
            seconds, nanos = divmod(round(at * 1e9), 10**9)
            task._pb.schedule_time.seconds, task._pb.schedule_time.nanos = seconds, nanos
        retries = retry.Retry(
            retry.if_exception_type(*_TEMPORARY), initial=0.1, maximum=2.0, multiplier=2.0, timeout=TOTAL_TIMEOUT
        )
        with _mapped_errors():
            try:
                self._client.create_task(
                    parent=f"{self._queue_prefix}/{queue}", task=task, retry=retries, timeout=REQUEST_TIMEOUT
                )
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
        """Statistics of *queue*, within *seconds*. Only the beta API has them, of the same service."""
        request = {"name": f"{self._queue_prefix}/{queue}", "read_mask": _READ_MASK}
        with _mapped_errors():
            found = tasks_v2beta3.Queue.pb(self._beta.get_queue(request, retry=None, timeout=seconds))
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
        transport: Any = self._client.transport
        transport.close()


def _numbers(stats: Any) -> dict[str, Any]:
    oldest = stats.oldest_estimated_arrival_time if stats.HasField("oldest_estimated_arrival_time") else None
    return {
        "tasks_count": stats.tasks_count,
        "oldest_estimated_arrival_time": oldest and format_time(oldest.ToMicroseconds() / 1e6),
        "executed_last_minute_count": stats.executed_last_minute_count,
        "concurrent_dispatches_count": stats.concurrent_dispatches_count,
    }


def _duration(seconds: float) -> dict[str, int]:
    whole, nanos = divmod(round(seconds * 1e9), 10**9)
    return {"seconds": whole, "nanos": nanos}
