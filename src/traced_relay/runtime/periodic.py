"""A function called at an interval in its own thread, by an injected clock."""

from __future__ import annotations

import logging
from threading import Condition, Thread
from typing import TYPE_CHECKING

from traced_relay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Callable

    from traced_relay.runtime.clock import Clock

RETRY_AFTER = 1.0
STOP_TIMEOUT = 0.5

_logger = logging.getLogger(__name__)


class Periodic:
    """
    Calls *beat* every *seconds*, for the first time *at_once* or after the first interval.

    Retries a failed call after 1 s, or at the next interval if that is sooner. With None for *seconds* only the call
    at once is made.
    """

    def __init__(
        self, name: str, seconds: float | None, beat: Callable[[], None], clock: Clock, *, at_once: bool = False
    ) -> None:
        self._name = name
        self._seconds = seconds
        self._beat = beat
        self._clock = clock
        self._at_once = at_once
        self._stop = Condition()
        self._stopped = False
        self._thread = Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Start no further call; wait up to 0.5 s for the one in progress."""
        with self._stop:
            self._stopped = True
            self._stop.notify_all()
        if self._thread.is_alive():
            self._thread.join(STOP_TIMEOUT)

    def _run(self) -> None:
        begun = self._clock.monotonic()
        done = self._try() if self._at_once else True
        while self._has_waited(begun, done=done):
            begun = self._clock.monotonic()
            done = self._try()

    def _has_waited(self, begun: float, *, done: bool) -> bool:
        """Wait for the next call after the one that has *begun* then; False once stopped."""
        with self._stop:
            if not self._stopped:
                self._clock.wait(self._stop, self._pause(begun, done=done))
            return not self._stopped

    def _pause(self, begun: float, *, done: bool) -> float | None:
        if self._seconds is None:
            return None if done else RETRY_AFTER
        left = max(0.0, begun + self._seconds - self._clock.monotonic())
        return left if done else min(left, RETRY_AFTER)

    def _try(self) -> bool:
        try:
            self._beat()
        except RelayError as exc:
            _logger.warning("%s: %s", self._name, exc)
        except Exception:
            _logger.exception("%s failed", self._name)  # and is retried: no other thread would
        else:
            return True
        return False
