"""The headers of a dispatch for both families of targets, as recorded from production."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from traced_relay.emulator.attempts import APP_ENGINE, HTTP
from traced_relay.emulator.errors import invalid

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from traced_relay.emulator.state import TaskState

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

# Google documents some of these; the others would break the framing of the request.
_IGNORED = frozenset(
    (
        *("host", "content-length", "transfer-encoding", "te", "trailer", "expect"),
        *("connection", "keep-alive", "proxy-connection", "upgrade"),
    )
)
_OWN_PREFIXES = ("x-google-", "x-appengine-", "x-cloudtasks-")


def for_http(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that are stored with an HTTP task; names keep their case."""
    kept = {name: value for name, value in _settable(headers, "HttpRequest") if name.lower() != "user-agent"}
    return kept | {"User-Agent": HTTP.user_agent}


def for_app_engine(headers: Mapping[str, str], body: bytes) -> dict[str, str]:
    """The headers that are stored with an App Engine task; its own User-Agent comes before ours."""
    kept = dict(_settable(headers, "AppEngineHttpRequest"))
    own = [kept.pop(name) for name in tuple(kept) if name.lower() == "user-agent"]
    kept["User-Agent"] = " ".join([*own, APP_ENGINE.user_agent])
    if body:
        if not any(name.lower() == "content-type" for name in kept):
            kept["Content-Type"] = "application/octet-stream"
        kept["Content-Length"] = str(len(body))
    return kept


def of_attempt(task: TaskState, eta: float) -> dict[str, str]:
    """The headers that describe the next attempt of *task*."""
    progress, prefix = task.progress, task.family.prefix
    added = {
        f"{prefix}QueueName": task.queue.queue_id,
        f"{prefix}TaskName": task.task_id,
        f"{prefix}TaskRetryCount": str(progress.retry_count),
        f"{prefix}TaskExecutionCount": str(progress.execution_count),
        f"{prefix}TaskETA": f"{eta:.6f}",
    }
    if progress.previous_response is not None:
        added[f"{prefix}TaskPreviousResponse"] = str(progress.previous_response)
        added[f"{prefix}TaskRetryReason"] = progress.retry_reason
    return added


def _settable(headers: Mapping[str, str], owner: str) -> Iterator[tuple[str, str]]:
    """The headers to store. Refuses those that HTTP forbids: a line break in a value would inject headers."""
    for name, value in headers.items():
        if not _NAME.fullmatch(name):
            raise invalid(f'{owner}.headers has an invalid header name: "{name}".')
        if _CONTROL.search(value):
            raise invalid(f'{owner}.headers has an invalid value for header "{name}".')
        lower = name.lower()
        if lower not in _IGNORED and not lower.startswith(_OWN_PREFIXES):
            yield name, value
