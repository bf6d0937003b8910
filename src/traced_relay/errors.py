"""
The errors of this package, as a tree. Each line: who gets the error, and what to do.

    RelayError
    |- InvalidCall           the caller: an invalid request; 400, 409, 413, 415, 422 or 501; never retried
    |  `- UnsupportedCoding  the caller: compressed content; 415
    |- InvalidSettings       the operator, at start: names the file and key, or the variable
    |- NotAuthorized         the caller: 401 or 403
    |- NotFound              the caller: 404
    |- TooManyRequests       the caller: too many lists at once; 429, retried after Retry-After
    |- Unavailable           ledger, queue or certificates cannot be reached; 503, at /dispatch 500
    |- EnqueueFailed         the operator: Cloud Tasks refused; 503
    |- IdentityFailed        no ID token or no signing secret
    |- NotVerified           the receiver of a callback: its signature is wrong
    |- DownstreamDenied      the caller: an address or host that may not be called; never retried
    |- PortTaken             the operator, at start: another process uses the port
    |- UnexpectedResponse    the client: the URL is not a relay's, or the relay is broken
    |- AccessDenied          `check --cloud`: Google does not show a resource to this account
    |- NoRecords             `explain`: the input contains no readable record
    `- NotEnded              the client: the task takes longer than the client waited
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class RelayError(Exception):
    """Root of all errors of this package."""


@dataclass(frozen=True)
class FieldError:
    """One broken rule: a dotted path such as `retry.max_attempts`, and the rule."""

    field: str
    message: str


class InvalidCall(RelayError):
    """The request is not a valid call. The caller corrects it; nothing was created."""

    def __init__(self, detail: str, *, status: int = 422, errors: tuple[FieldError, ...] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.errors = errors


def without_values(error: RelayError) -> str:
    """Text of the *error* for the log: fields and rules, but no value of the request, which may be secret."""
    broken = [f"{one.field} {one.message}" for one in getattr(error, "errors", ())]
    return "; ".join(text.partition(", got ")[0] for text in broken or [str(error)])


class UnsupportedCoding(InvalidCall):
    """The content is compressed. The caller sends it without a content coding."""


class InvalidSettings(RelayError):
    """The service cannot start. The operator corrects the named file and key, or variable."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class NotAuthorized(RelayError):
    """The request has no valid token (401) or no permission (403); *email* is that of a valid token."""

    def __init__(self, detail: str, *, status: int, reason: str, email: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.reason = reason
        self.email = email


class NotFound(RelayError):
    """The task does not exist, or is not the caller's."""


class TooManyRequests(RelayError):
    """The caller's lists would slow other requests. The caller repeats the request later."""


class Unavailable(RelayError):
    """A service that the relay depends on did not respond. The caller repeats the request later."""


class EnqueueFailed(RelayError):
    """Cloud Tasks refused the task, and would again. The operator corrects the queue or its permissions."""


class IdentityFailed(RelayError):
    """No ID token for the audience, or no secret to sign with. The relay retries the attempt."""


class NotVerified(RelayError):
    """The callback's signature is wrong. Its receiver responds with 4xx and does nothing."""


class DownstreamDenied(RelayError):
    """The host's address may not be called. Not an OSError, which `requests` would report as a failed connection."""


class PortTaken(RelayError):
    """Another process uses the port. The operator chooses another one."""


class UnexpectedResponse(RelayError):
    """The response is not one of the API. The client's user checks the URL, then the relay's log."""


class AccessDenied(RelayError):
    """Google does not show the resource to this account. The operator uses one that may see it."""


class NoRecords(RelayError):
    """The input contains no readable record. The operator exports it in another format."""


class NotEnded(RelayError):
    """The task did not end while the client waited. It continues."""


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
