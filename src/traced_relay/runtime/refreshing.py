"""A cache of one fetched value that serves the old value while it is refreshed and while its source is unavailable."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Generic, TypeVar

from traced_relay.errors import RelayError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from traced_relay.runtime.clock import Clock

RETRY_AFTER = 30.0
RETRY_AFTER_NOTHING = 2.0  # so that the threads that wait for an unavailable source do not wait one after another

T = TypeVar("T")


class Refreshing(Generic[T]):
    """
    Caches what *fetch* returns, for as many seconds as *fresh_for* says of it.

    One thread fetches. The others get the cached value; they wait only while no value is there, so a first *value*
    keeps them from ever waiting. Two fetches are at least *retry_after* seconds apart, and 2 s while no value is there.
    A failed fetch leaves the old value in use, unless the error is a *revoked*, which drops it.
    """

    def __init__(
        self,
        fetch: Callable[[], T],
        clock: Clock,
        *,
        fresh_for: Callable[[T], float],
        value: T | None = None,
        retry_after: float = RETRY_AFTER,
        revoked: type[RelayError] | tuple[()] = (),
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._fresh_for = fresh_for
        self._value = value
        self._retry_after = retry_after
        self._revoked = revoked
        self._lock = Lock()
        self._failure: RelayError = Unavailable("not fetched yet")
        self._fetched_at = self._tried_at = float("-inf")

    def get(self, is_enough: Callable[[T], bool] = lambda _: True) -> T:
        """The value, fetched again if it is not fresh or not enough; without one, the last fetch's error is raised."""
        value = self._value
        must_wait = value is None or not is_enough(value)
        if self._is_due(is_enough) and self._lock.acquire(blocking=must_wait):
            try:
                if self._is_due(is_enough):
                    self._refresh()
            finally:
                self._lock.release()
        value = self._value
        if value is None:
            raise self._failure.with_traceback(None)
        return value

    def _is_due(self, is_enough: Callable[[T], bool]) -> bool:
        now, value = self._clock.monotonic(), self._value
        if value is None:
            return now - self._tried_at >= RETRY_AFTER_NOTHING
        is_fresh = now - self._fetched_at < self._fresh_for(value)
        return not (is_fresh and is_enough(value)) and now - self._tried_at >= self._retry_after

    def _refresh(self) -> None:
        try:
            self._value = self._fetch()
            self._fetched_at = self._clock.monotonic()
        except RelayError as exc:
            self._failure = exc
            if isinstance(exc, self._revoked):
                self._value = None
        finally:
            self._tried_at = self._clock.monotonic()
