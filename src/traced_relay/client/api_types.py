"""What the API takes and gives, as types for whoever writes a program: its own words, and no rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from collections.abc import Mapping


class ReceiptLinks(TypedDict):
    """Where to see the task; *status* is None for a call with `route: direct`, of which the relay keeps no status."""

    status: str | None
    trace: str
    logs: str


class Receipt(TypedDict):
    """What enqueueing returns."""

    task_id: str
    task_name: str
    queue: str
    state: str
    trace_id: str
    schedule_time: str
    links: ReceiptLinks


class CallFields(TypedDict, total=False):
    """What may be said of a call beside its URL: the fields of `POST /v1/tasks`."""

    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    headers: Mapping[str, str]
    body: Any
    body_base64: str
    queue: str
    route: Literal["relay", "direct"]
    schedule_time: str
    delay: str
    timeout: str
    retry: Mapping[str, Any]
    idempotent: bool
    callback: Mapping[str, Any]
    labels: Mapping[str, str]


class Filters(TypedDict, total=False):
    """Which tasks a list shows; *since* is a time, or a duration before now."""

    kind: Literal["call", "callback"]
    state: str
    queue: str
    rule: str
    reason: str
    version: str
    since: str
