"""One attempt as values: the dispatch to send, and its outcome."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from traced_relay.emulator.messages import AppEngineRouting, Task


class Family(NamedTuple):
    """The headers that differ between HTTP and App Engine targets."""

    prefix: str
    user_agent: str
    error_reason: str  # TaskRetryReason after a response that is no success
    no_response_reason: str


HTTP = Family("X-CloudTasks-", "Google-Cloud-Tasks", "", "")
APP_ENGINE = Family(
    "X-AppEngine-", "AppEngine-Google; (+http://code.google.com/appengine)", "App Error", "Instance Unavailable"
)


@dataclass(frozen=True, slots=True, eq=False)
class Dispatch:
    """Everything that sending one attempt requires; compared by identity."""

    task: Task
    headers: dict[str, str]  # those that describe this attempt
    routing: AppEngineRouting | None
    run_at: float | None  # the time of the RunTask that started it


class End(Enum):
    RESPONDED = "responded"
    DEADLINE = "deadline"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    How an attempt ended; *status* and *retry_after* are the response's, if there was one.

    A redirect counts as a failure and is not followed, in both families.
    """

    end: End
    status: int = 0
    retry_after: str | None = None

    @property
    def is_success(self) -> bool:
        return 200 <= self.status <= 299
