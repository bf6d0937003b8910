"""One attempt as values: what is to be sent, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from traced_relay.emulator.messages import AppEngineRouting, Task


class Family(NamedTuple):
    """What differs between HTTP and App Engine targets in the headers."""

    prefix: str
    user_agent: str
    refused: str  # TaskRetryReason after an answer that was no success
    unanswered: str  # TaskRetryReason after no answer


HTTP = Family("X-CloudTasks-", "Google-Cloud-Tasks", "", "")


APP_ENGINE = Family(
    "X-AppEngine-", "AppEngine-Google; (+http://code.google.com/appengine)", "App Error", "Instance Unavailable"
)


@dataclass(frozen=True, slots=True)
class Dispatch:
    """All that sending one attempt of a task takes; the engine is not asked again until it has ended."""

    token: int
    task: Task
    family: Family
    queue_id: str
    task_id: str
    retry_count: int
    execution_count: int
    eta: float
    previous_response: int | None
    retry_reason: str
    deadline: float
    routing: AppEngineRouting | None
    run_at: float | None  # when RunTask forced it


class End(Enum):
    ANSWERED = "answered"
    DEADLINE = "deadline"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    How an attempt ended; *status* and *retry_after* are the worker's, if it answered.

    A redirect is an answer like any other that is no success: it is not followed, for either family.
    """

    end: End
    status: int = 0
    retry_after: str | None = None

    @property
    def succeeded(self) -> bool:
        return 200 <= self.status <= 299
