"""relay.yaml: queues, worker, callers, downstreams. Read strictly: an unknown key is an error with file and key."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from traced_relay.downstream.addresses import Reach, range_of
from traced_relay.downstream.rules import Downstream, UrlPattern
from traced_relay.downstream.webhook_signature import SECRET_NAME
from traced_relay.errors import InvalidCall, InvalidSettings
from traced_relay.formats.durations import format_duration
from traced_relay.formats.validation import Duration, Model, read
from traced_relay.formats.yaml_file import document_of
from traced_relay.runtime.loopback import is_local_host
from traced_relay.tasks import retry as retries
from traced_relay.tasks.call import DAY, RetryPolicy, Url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from traced_relay.downstream.addresses import Range

QUEUE_ID = r"^[A-Za-z0-9-]{1,100}$"
REGION = re.compile(r"[a-z]+-[a-z]+[0-9]{1,2}")
AUDIENCE = r"^[A-Za-z0-9:/._~@%?=-]{1,500}$"
SERVICE_ID = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"


def _check_region(location: str) -> str:
    if not REGION.fullmatch(location):
        raise ValueError("must be one region such as us-central1, because queues exist only in regions")
    return location


def _check_account(email: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*@[a-z0-9.-]+\.gserviceaccount\.com", email):
        raise ValueError("must be a service account, NAME@PROJECT.iam.gserviceaccount.com")
    return email


def _check_email(email: str) -> str:
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", email) or email != email.lower():
        raise ValueError("must be an email address in lower case, as in Google's ID tokens")
    return email


class QueueRule(Model):
    name: Annotated[str, Field(pattern=QUEUE_ID)]
    max_dispatches_per_second: Annotated[float, Field(gt=0, le=500)] = 100.0
    max_concurrent_dispatches: Annotated[int, Field(ge=1, le=5000)] = 80
    use: Annotated[Literal["calls", "callbacks"], Field(alias="for")] = "calls"


class TaskTarget(Model):
    """Target of the tasks: an App Engine service of this project, or a URL and the account of their ID token."""

    app_engine: Annotated[str, Field(pattern=SERVICE_ID)] | None = None
    url: Url | None = None
    service_account: Annotated[str, AfterValidator(_check_account)] | None = None

    @field_validator("url")
    @classmethod
    def _is_an_origin(cls, url: str | None) -> str | None:
        parts = urlsplit(url or "https:")
        if parts.scheme != "https" and not is_local_host(parts.netloc):
            raise ValueError("must start with https://: tasks bring an ID token")
        if parts.path.strip("/") or parts.query:
            raise ValueError("must have no path: /dispatch and the others follow it")
        return url

    @model_validator(mode="after")
    def _is_one_of_both(self) -> TaskTarget:
        if (self.app_engine is None) == (self.url is None):
            raise ValueError("must have either app_engine or url")
        if (self.url is None) != (self.service_account is None):
            raise ValueError("must have service_account together with url")
        return self


class Caller(Model):
    """An account that may enqueue, and see its own tasks; an operator sees all tasks. `"*"` means all."""

    email: Annotated[str, AfterValidator(_check_email)]
    role: Literal["caller", "operator"] = "caller"
    queues: Literal["*"] | list[str] = Field(default=[])
    downstreams: Literal["*"] | list[str] = Field(default=[])

    @model_validator(mode="after")
    def _has_lists(self) -> Caller:
        if self.role == "caller" and not {"queues", "downstreams"} <= self.model_fields_set:
            raise ValueError('must have queues and downstreams, each a list of names or "*"')
        return self


def _check_secret(name: str) -> str:
    """Everyone may read the file, so it contains only the secret's name."""
    if not SECRET_NAME.fullmatch(name):
        raise ValueError(
            "must be the name of a secret in Secret Manager, projects/P/secrets/S with or without /versions/V;"
            " the secret itself must not be in this file"
        )
    return name


class CallbackReceiver(UrlPattern):
    """Where callbacks may go, signed with *secret*, or with RELAY_CALLBACK_SECRET."""

    secret: Annotated[str, AfterValidator(_check_secret)] | None = None


class RelayFile(Model):
    location: Annotated[str, AfterValidator(_check_region)] | None = None
    queues: Annotated[list[QueueRule], Field(min_length=1)]
    worker: TaskTarget
    audience: Annotated[str, Field(pattern=AUDIENCE)] | None = None
    callers: list[Caller] = Field(default=[])
    downstreams: list[Downstream] = Field(default=[])
    callbacks: list[CallbackReceiver] = Field(default=[])
    callback_first_wait: Annotated[Duration, Field(ge=0, le=3600)] = 5.0
    retry: RetryPolicy = RetryPolicy()
    heartbeat: Annotated[Duration, Field(ge=1, le=3600)] = 60.0
    max_timeout: Annotated[Duration, Field(ge=1)] | None = None
    retention: Annotated[Duration, Field(ge=60, le=3650 * DAY)] = 7 * DAY
    sweep_every: Annotated[Duration, Field(ge=1, le=3600)] = 60.0

    @model_validator(mode="after")
    def _names_agree(self) -> RelayFile:
        for key, names in (
            ("queues", [queue.name for queue in self.queues]),
            ("downstreams", [downstream.name for downstream in self.downstreams]),
            ("callers", [caller.email for caller in self.callers]),
        ):
            if len(set(names)) != len(names):
                raise ValueError(f"{key}: must not name {max(names, key=names.count)} twice")
        for_callbacks = [queue for queue in self.queues if queue.use == "callbacks"]
        if len(for_callbacks) == len(self.queues):
            raise ValueError("queues: must have one that is not for callbacks")
        if len(for_callbacks) > 1:
            raise ValueError("queues: must not have two with `for: callbacks`, because only one is used")
        if self.callbacks and not for_callbacks:
            raise ValueError("queues: must have one with `for: callbacks`, because callbacks are listed")
        if broken := retries.broken_rule(self.retry):
            raise ValueError(f"retry.{broken.field}: {broken.message}")
        return self


def load(path: Path) -> RelayFile:
    document = document_of(path)
    return parse({} if document is None else document, str(path))


def parse(document: Any, where: str) -> RelayFile:
    try:
        return read(RelayFile, document)
    except InvalidCall as exc:
        lines = [f"{where}: {error.field} {error.message}" for error in exc.errors if error.field != "request"]
        raise InvalidSettings(*(lines or [f"{where}: must be a mapping of keys to values"])) from None


MAX_TIMEOUT_APP_ENGINE = 86_400.0
MAX_TIMEOUT_HTTP_WORKER = 1_785.0  # Cloud Tasks waits 30 minutes for an HTTP target, less the 15 s of slack


def _ceiling(rules: RelayFile) -> float:
    return MAX_TIMEOUT_APP_ENGINE if rules.worker.app_engine else MAX_TIMEOUT_HTTP_WORKER


def longest_timeout(rules: RelayFile) -> float:
    return _ceiling(rules) if rules.max_timeout is None else rules.max_timeout


def rule_problems(rules: RelayFile, *, is_local: bool) -> Iterator[str]:
    """Problems with which a relay does not start; one that *is_local* has its queue on the same machine."""
    url = rules.worker.url
    if url and not is_local and is_local_host(urlsplit(url).netloc):
        yield f"worker.url must not be on this machine, because Cloud Tasks cannot reach it, got {url}"
    ceiling = _ceiling(rules)
    if rules.max_timeout is not None and rules.max_timeout > ceiling:
        yield (
            f"max_timeout must be at most {format_duration(ceiling)} with this worker,"
            f" got {format_duration(rules.max_timeout)}"
        )
    if (rules.callers or rules.worker.url) and not rules.audience:
        yield "audience must be set, because ID tokens are checked against it"
    for key, pattern, found in patterns_by_address(rules):
        if found.reach is Reach.NEVER:
            yield f"{key} must not be in {found}, which no rule can allow, got {pattern.url}"
    known_queues = {queue.name for queue in rules.queues if queue.use == "calls"}
    known_downstreams = {rule.name for rule in rules.downstreams}
    for caller in rules.callers:
        for key, named, known in (
            ("queues", caller.queues, known_queues),
            ("downstreams", caller.downstreams, known_downstreams),
        ):
            for unknown in sorted(set(named) - known) if named != "*" else []:
                meant = '; for all of them, write "*" in place of the list' if unknown == "*" else ""
                yield f"callers.{key} of {caller.email} refers to {unknown}, which is not defined{meant}"


def url_patterns(rules: RelayFile) -> Iterator[tuple[str, UrlPattern]]:
    """All URL patterns with their keys."""
    yield from ((f"downstreams.{rule.name}.url", rule) for rule in rules.downstreams)
    yield from (("callbacks.url", receiver) for receiver in rules.callbacks)


def patterns_by_address(rules: RelayFile) -> Iterator[tuple[str, UrlPattern, Range]]:
    """The URL patterns whose host is an address, with their keys and the range of that address."""
    for key, pattern in url_patterns(rules):
        if found := _range_named_by(pattern):
            yield key, pattern, found


def _range_named_by(pattern: UrlPattern) -> Range | None:
    """The range of the address in *pattern*, in any spelling (0x7f.1, 2130706433); None if its host is a name."""
    host = (urlsplit(pattern.url).hostname or "").rstrip(".")
    try:
        return range_of(host if ":" in host else socket.inet_ntoa(socket.inet_aton(host)))
    except OSError:
        return None
