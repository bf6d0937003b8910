"""
What can go wrong, as a tree; each error says who meets it and what to do.

    RelayError
    |- InvalidCall        the caller's mistake; 400, 409, 413, 415, 422 or 501; never retried
    |  `- UnsupportedCoding  its content is compressed, say; 415
    |- InvalidSettings    at start; names file and key
    |- NotAuthorized      401 or 403
    |- NotFound           404
    |- Unavailable        ledger, queue or certificates out of reach; 503, at /dispatch 500
    |- EnqueueFailed      the queue said no: an operator's problem; 503
    |- IdentityFailed     no ID token, or no signing secret, to be had
    |- NotVerified        a callback that is not what its sender signed
    |- DownstreamDenied   address or host that may not be called; never retried
    |- PortTaken          at start; another process listens there
    |- UnexpectedAnswer   a client's: what it asked is no relay, or one that is broken
    |- NotLookedAt        of `check --cloud`: a resource that Google does not show to whoever asks
    |- NoRecords          what was given to be read as records holds none
    |- NotEnded           a client's: the task goes on for longer than it waited
    `- DownstreamFailed   no response, with the contract's reason
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class RelayError(Exception):
    """Root of all our errors."""


@dataclass(frozen=True)
class FieldError:
    """One broken rule: a dotted path such as `retry.max_attempts`, and what the rule is."""

    field: str
    message: str


class InvalidCall(RelayError):
    """The caller sent something that cannot be a call; tell the caller, create nothing."""

    def __init__(self, detail: str, *, status: int = 422, errors: tuple[FieldError, ...] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.errors = errors


class UnsupportedCoding(InvalidCall):
    """The content has a content coding; the same content without one is accepted."""


class InvalidSettings(RelayError):
    """The service cannot start like this; the operator mends the named file and key."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class NotAuthorized(RelayError):
    """The request did not show who it is (401), or may not do this (403); *email* is what a valid token says."""

    def __init__(self, detail: str, *, status: int, reason: str, email: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.reason = reason
        self.email = email


class NotFound(RelayError):
    """No such task, or not the caller's."""


class Unavailable(RelayError):
    """Something the relay depends on did not answer; the same request may succeed later."""


class EnqueueFailed(RelayError):
    """Cloud Tasks refused the task for a reason that asking again will not change."""


class IdentityFailed(RelayError):
    """No ID token could be had for the audience, or no secret to sign with; the attempt is retried."""


class NotVerified(RelayError):
    """A callback must not be believed; its receiver answers 4xx and does nothing."""


class DownstreamDenied(RelayError):
    """The host's address may not be called; no OSError, or `requests` would take it for a connection that failed."""


class PortTaken(RelayError):
    """Another process listens on this port; choose another one."""


class UnexpectedAnswer(RelayError):
    """What answered at the relay's URL did not answer as the API does; look at the URL, then at the relay's log."""


class NotLookedAt(RelayError):
    """Google did not let whoever asks look at a resource, so nothing is known of it; ask as somebody who may."""


class NoRecords(RelayError):
    """What was given to be read as records holds none that can be read; choose another format where it is made."""


class NotEnded(RelayError):
    """The task did not end in the time that was given to wait for it; it goes on."""


@contextmanager
def map_exceptions(
    *table: tuple[type[Exception] | tuple[type[Exception], ...], Callable[[Any], RelayError]],
) -> Iterator[None]:
    """Raise our own error in place of a library's. The first line of *table* that names the exception makes ours."""
    try:
        yield
    except Exception as exc:
        for kinds, error_for in table:
            if isinstance(exc, kinds):
                raise error_for(exc) from exc
        raise
