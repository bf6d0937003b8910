"""Asks a relay, for so many seconds and no more; whatever it answers, there is a view or one clear error."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TookTooLong
from threading import BoundedSemaphore, Thread
from typing import TYPE_CHECKING, TypeVar

from traced_relay.errors import NotAuthorized, NotFound, RelayError, Unavailable, UnexpectedAnswer
from traced_relay.tracing import instrumentation

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_logger = logging.getLogger(__name__)

# What reading an answer raises that is not as the API has it: fields missing, of other types, or nested without end.
ODD = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class BoundedClient:
    """
    Puts questions to a relay, each in a thread of its own.

    A relay that sends a byte now and then would hold a page for ever: no timeout
    of a socket notices. So the page goes on without the answer, and only so
    *many* questions are out at once.
    """

    def __init__(self, seconds: float = 10.0, many: int = 16) -> None:
        self._seconds = seconds
        self._free = BoundedSemaphore(many)

    def ask(self, question: Callable[[], T]) -> T:
        if not self._free.acquire(timeout=self._seconds):
            raise Unavailable("the relay has not yet answered what it was asked before")
        answer: Future[T] = Future()
        Thread(target=self._put, args=(question, answer), name="asking", daemon=True).start()
        try:
            return answer.result(self._seconds)
        except TookTooLong:
            raise Unavailable(f"the relay did not answer within {self._seconds:g} s") from None
        except ODD as exc:
            raise unreadable(exc) from exc

    def _put(self, question: Callable[[], T], answer: Future[T]) -> None:
        try:
            with instrumentation.without_spans():
                answer.set_result(question())
        except BaseException as exc:  # noqa: BLE001  (raised again where the answer is waited for)
            answer.set_exception(exc)
        finally:
            self._free.release()


def unreadable(exc: Exception) -> UnexpectedAnswer:
    _logger.warning("an answer of the relay could not be read", exc_info=exc)
    return UnexpectedAnswer("the relay's answer is not as the API has it; is it another version?")


def status_of(error: RelayError) -> int:
    """With which status the console says it: the relay's own refusals as they came, all else as a gateway's."""
    match error:
        case NotAuthorized():
            return error.status
        case NotFound():
            return 404
        case Unavailable():
            return 504
    return getattr(error, "status", 502)


def hint_of(error: RelayError) -> str:
    """What whoever reads the error may do about it."""
    match error:
        case NotAuthorized(status=401):
            return "The ID token may have expired, or be for another audience: see `traced-relay console --help`."
        case NotAuthorized():
            return "Its relay.yaml lists who may look: `callers`, with `role: operator` for queues and all tasks."
        case NotFound():
            return "It may have been forgotten after its retention, or belong to somebody else."
        case Unavailable():
            return "This page asks again by itself."
    return "Look at the URL, then at the relay's log."
