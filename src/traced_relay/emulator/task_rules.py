"""Which tasks may be created, and how they are stored: Cloud Tasks' rules, defaults and texts."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from traced_relay.emulator import headers as header_rules
from traced_relay.emulator import messages as m
from traced_relay.emulator import resource_names
from traced_relay.emulator.backoff import seconds
from traced_relay.emulator.errors import invalid
from traced_relay.emulator.queue_rules import check_retry_config

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import tzinfo

LONGEST_SCHEDULE = 30 * 86400
LARGEST_TASK = 1_048_569
LONGEST_URL = 2083
LARGEST_HTTP_HEADERS = 80 * 1024
DEFAULT_DEADLINE = 600.0  # for App Engine too, as with automatic scaling
_LAST_SHOWN = 253_402_214_400  # the last day of the year 9999
SHORTEST_DEADLINE, LONGEST_HTTP_DEADLINE, LONGEST_APP_ENGINE_DEADLINE = 15, 1800, 86415

_BODY_METHODS = {"HttpRequest": ("POST", "PUT", "PATCH"), "AppEngineHttpRequest": ("POST", "PUT")}
_OUTPUT_ONLY = ("create_time", "dispatch_count", "response_count", "first_attempt", "last_attempt", "view")


def task_to_store(requested: m.Task, name: str, now: float) -> m.Task:
    """The task under *name*, with all defaults filled in."""
    task = m.Task()
    task.CopyFrom(requested)
    task.name = name
    for field in _OUTPUT_ONLY:
        task.ClearField(field)
    kind = task.WhichOneof("message_type")
    if kind is None:
        raise invalid("Task must have one of Task.httpRequest and Task.appEngineHttpRequest set.")
    if kind == "http_request":
        _complete_http(task.http_request)
    else:
        _complete_app_engine(task.app_engine_http_request, name)
    _check_deadline(task, LONGEST_HTTP_DEADLINE if kind == "http_request" else LONGEST_APP_ENGINE_DEADLINE)
    if task.HasField("retry_config"):
        check_retry_config(task.retry_config)
    _complete_schedule_time(task, now)
    task.create_time.FromSeconds(int(now))
    if task.ByteSize() > LARGEST_TASK:
        raise invalid("Task size too large")
    return task


def _complete_http(request: m.HttpRequest) -> None:
    if not request.url:
        raise invalid("HttpRequest.url is required.")
    if not request.url.lower().startswith(("http://", "https://")):
        raise invalid("HttpTarget.url must start with 'http://' or 'https://'.")
    if len(request.url) > LONGEST_URL:
        raise invalid(f"HttpRequest.url must be less than or equal to {LONGEST_URL} characters.")
    token = request.WhichOneof("authorization_header")
    if token and not getattr(request, token).service_account_email:
        raise invalid("HttpRequest.authorizationHeader must have a serviceAccountEmail.")
    stored = header_rules.for_http(request.headers)
    if sum(len(name) + len(value) for name, value in stored.items()) >= LARGEST_HTTP_HEADERS:
        raise invalid("HttpRequest.headers must be less than 80KB.")
    _complete_request(request, stored)


def _complete_app_engine(request: m.AppEngineHttpRequest, name: str) -> None:
    request.relative_uri = request.relative_uri or "/"
    if not request.relative_uri.startswith("/") or any(char.isspace() for char in request.relative_uri):
        raise invalid("AppEngineHttpRequest.relativeUri must begin with '/' and contain no spaces.")
    if len(request.relative_uri) > LONGEST_URL:
        raise invalid(f"AppEngineHttpRequest.relativeUri must be less than or equal to {LONGEST_URL} characters.")
    stored = header_rules.for_app_engine(request.headers, request.body)
    _complete_request(request, stored)
    request.app_engine_routing.host = resource_names.app_engine_host(request.app_engine_routing, name)


def _complete_request(request: m.HttpRequest | m.AppEngineHttpRequest, stored: dict[str, str]) -> None:
    field = request.DESCRIPTOR.name
    request.http_method = request.http_method or m.POST
    method = m.HTTP_METHODS.get(request.http_method)
    if method is None:
        raise invalid(f"{field}.httpMethod is invalid.")
    if request.body and method not in _BODY_METHODS[field]:
        raise invalid(f"{field}.body is not allowed for the HTTP method {method}.")
    request.headers.clear()
    request.headers.update(stored)


def _check_deadline(task: m.Task, longest: int) -> None:
    given = seconds(task.dispatch_deadline) or DEFAULT_DEADLINE
    if not SHORTEST_DEADLINE <= given <= longest:
        raise invalid(
            f"Task.dispatchDeadline must be between [15s, {'30m' if longest == LONGEST_HTTP_DEADLINE else '24h15s'}]."
        )
    task.dispatch_deadline.FromMilliseconds(int(given * 1000))


def _complete_schedule_time(task: m.Task, now: float) -> None:
    wanted = seconds(task.schedule_time)
    if wanted > now + LONGEST_SCHEDULE:
        shown = datetime.fromtimestamp(min(int(wanted), _LAST_SHOWN), _PACIFIC)
        raise invalid(
            f"The Task.scheduleTime, {shown.isoformat()}, is too far in the future. "
            "Schedule time must be no more than 720h in the future."
        )
    if wanted <= now:
        set_time(task.schedule_time, now)
    else:
        task.schedule_time.nanos -= task.schedule_time.nanos % 1000


def pacific(find: Callable[[str], tzinfo] = ZoneInfo) -> tzinfo:
    """The time zone of the times in production's texts."""
    try:
        return find("America/Los_Angeles")
    except ZoneInfoNotFoundError:  # the machine has no time zone data
        return timezone(timedelta(hours=-8))


_PACIFIC = pacific()


def set_time(stamp: m.Timestamp, time: float) -> None:
    """Write *time* into *stamp*, rounded to the microsecond."""
    stamp.seconds, micros = divmod(round(time * 1e6), 1_000_000)
    stamp.nanos = micros * 1000
