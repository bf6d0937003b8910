"""Requests to a relay with a time limit; every failure becomes one RelayError."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from threading import BoundedSemaphore, Thread
from typing import TYPE_CHECKING, TypeVar

from opentelemetry.instrumentation.utils import suppress_http_instrumentation

from traced_relay.errors import NotAuthorized, NotFound, RelayError, Unavailable, UnexpectedResponse

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_logger = logging.getLogger(__name__)

# Raised by a response that does not match the API: missing fields, other types, endless nesting.
MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class BoundedClient:
    """
    Runs each request to a relay in a thread of its own.

    A relay that sends a byte now and then never exceeds a socket's timeout, so
    the page gives up after *seconds*; at most *limit* requests run at once.
    """

    def __init__(self, seconds: float = 10.0, limit: int = 16) -> None:
        self._seconds = seconds
        self._free = BoundedSemaphore(limit)

    def ask(self, request: Callable[[], T]) -> T:
        if not self._free.acquire(timeout=self._seconds):
            raise Unavailable("earlier requests to the relay are still pending")
        response: Future[T] = Future()
        Thread(target=self._run, args=(request, response), name="console-request", daemon=True).start()
        try:
            return response.result(self._seconds)
        except FutureTimeout:
            raise Unavailable(f"the relay did not respond within {self._seconds:g} s") from None
        except MALFORMED as exc:
            raise unexpected_response(exc) from exc

    def _run(self, request: Callable[[], T], response: Future[T]) -> None:
        try:
            with suppress_http_instrumentation():  # the console's requests must not appear beside the tasks
                response.set_result(request())
        except BaseException as exc:  # noqa: BLE001  (raised again by `ask`)
            response.set_exception(exc)
        finally:
            self._free.release()


def unexpected_response(exc: Exception) -> UnexpectedResponse:
    _logger.warning("a response of the relay cannot be read", exc_info=exc)
    return UnexpectedResponse("the relay's response does not match the API; is it another version?")


def status_of(error: RelayError) -> int:
    """The console's status code: the relay's own for a refusal, a gateway's for anything else."""
    match error:
        case NotAuthorized():
            return error.status
        case NotFound():
            return 404
        case Unavailable():
            return 504
    return getattr(error, "status", 502)


def hint_of(error: RelayError) -> str:
    """What the reader of the error can do about it."""
    match error:
        case NotAuthorized(status=401):
            return "The ID token may have expired or be for another audience; see `traced-relay console --help`."
        case NotAuthorized():
            return (
                "relay.yaml lists the accounts with access: `callers`, with `role: operator` for queues and all tasks."
            )
        case NotFound():
            return "The task may have been deleted after its retention, or belong to another caller."
        case Unavailable():
            return "This page retries automatically."
    return "Check the relay's URL, then its log."
