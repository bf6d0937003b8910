"""One delivery from a queue: its headers, of App Engine or of Cloud Tasks, and the form of its task."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from pydantic import ConfigDict, Field

from traced_relay.errors import InvalidCall
from traced_relay.formats import strict_json
from traced_relay.formats.durations import ms_between, parse_duration
from traced_relay.formats.validation import Model, read
from traced_relay.tasks import header_policy
from traced_relay.tasks.api_types import Method
from traced_relay.tasks.call import DAY, Call, JsonBody, RetryPolicy, Url, content_of, is_idempotent
from traced_relay.tasks.enqueue_request import without_nulls

if TYPE_CHECKING:
    from werkzeug.datastructures import Headers

APP_ENGINE, HTTP_TARGET = "X-AppEngine-", "X-CloudTasks-"
BARE_TIMEOUT = DAY / 2
_TASK_ID = re.compile(r"[0-9a-f]{32}")


class Dispatch(Struct, frozen=True):
    """
    The headers of one delivery; None for those that the queue did not send.

    *queue* and *task* are short ids, times are seconds since the epoch. The counts and the reason are about the queue's
    own redeliveries, which happen only when a worker did not respond.
    """

    queue: str
    task: str
    task_retry_count: int | None = None
    task_execution_count: int | None = None
    task_eta: float | None = None
    task_previous_response: int | None = None
    task_retry_reason: str | None = None

    @classmethod
    def from_headers(cls, headers: Headers, family: str) -> Dispatch:
        """The headers of one *family*; None for those that are absent or not a number."""
        return cls(
            queue=headers.get(f"{family}QueueName", ""),
            task=headers.get(f"{family}TaskName", ""),
            task_retry_count=_whole(headers.get(f"{family}TaskRetryCount")),
            task_execution_count=_whole(headers.get(f"{family}TaskExecutionCount")),
            task_eta=_seconds(headers.get(f"{family}TaskETA")),
            task_previous_response=_whole(headers.get(f"{family}TaskPreviousResponse")),
            task_retry_reason=(headers.get(f"{family}TaskRetryReason") or "")[:100] or None,
        )

    def queue_delay_ms(self, now: float) -> int | None:
        """Milliseconds that the task waited in the queue after it was due."""
        return None if self.task_eta is None else ms_between(self.task_eta, now)


class Delivery(Struct, frozen=True):
    """A dispatch and what the relay derived from it; *number* is the attempt that its task is for."""

    dispatch: Dispatch
    task_name: str
    number: int
    queue_delay_ms: int | None
    trace_rewritten: bool


def _whole(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"\d{1,9}", text) else None


def _seconds(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"\d{1,10}(\.\d{1,9})?", text) else None


class RelayTask(Struct, frozen=True):
    """A task that the relay created: one attempt of a call in the ledger."""

    task_id: str
    attempt: int


class BareTask(Model):
    """A task created by hand, with the whole call in its body; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    url: Url
    method: Method = "POST"
    headers: dict[str, str] = Field(default_factory=dict)
    body: JsonBody = Field(default_factory=dict)
    content_type: str = "application/json"
    timeout: Any = BARE_TIMEOUT

    def call(self, *, retry: RetryPolicy, max_timeout: float) -> Call:
        broken = list(header_policy.broken_rules(self.headers))
        if broken:
            raise InvalidCall(f"{broken[0].field} {broken[0].message}", errors=tuple(broken))
        if not re.fullmatch(r"[\x21-\x7e]([\x20-\x7e]{0,198}[\x21-\x7e])?", self.content_type):
            raise InvalidCall("content_type must be printable ASCII")
        return Call(
            url=self.url,
            method=self.method,
            headers=header_policy.with_content_type(self.headers, self.content_type),
            body=content_of(self.body),
            timeout=min(_timeout(self.timeout), max_timeout),
            retry=retry,
            idempotent=is_idempotent(self.method, None),
        )


def _timeout(value: Any) -> float:
    try:
        seconds = float(value) if isinstance(value, (int, float)) else parse_duration(value)
    except (ValueError, OverflowError) as exc:
        raise InvalidCall(f"timeout {exc}") from None
    if isinstance(value, bool) or seconds <= 0:
        raise InvalidCall("timeout must be more than 0")
    return seconds


def read_task(body: bytes) -> RelayTask | BareTask:
    """The task in the *body* of a dispatch; InvalidCall if it has neither form."""
    try:
        document = strict_json.loads(body)
    except strict_json.NotJson as exc:
        raise InvalidCall(str(exc)) from None
    match document:
        case {"task_id": str(task_id), "attempt": int(attempt), **others} if not others and attempt is not True:
            if _TASK_ID.fullmatch(task_id) and attempt >= 1:
                return RelayTask(task_id, attempt)
        case {"url": _}:
            return read(BareTask, without_nulls(BareTask, document))
    raise InvalidCall("the body is neither the relay's own task nor a call with a url")
