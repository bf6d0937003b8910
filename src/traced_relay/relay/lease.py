"""The worker's sign of life: one write every few seconds for all the calls it runs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from traced_relay.errors import Unavailable
from traced_relay.runtime.periodic import Periodic

if TYPE_CHECKING:
    from traced_relay.ledger.protocol import Ledger
    from traced_relay.relay.running_calls import RunningCalls
    from traced_relay.runtime.clock import Clock

BEAT = 5.0
LEASE = 15.0
LOOK_EVERY = 60.0  # for what was cancelled and could not be told; a read of each running call's row

_logger = logging.getLogger(__name__)


class LeaseKeeper:
    """
    Keeps *worker* alive in the ledger until it is stopped; a process that dies is believed dead a lease later.

    With each sign of life it learns which of its calls were cancelled. Without
    one for as long as a lease no call is taken on.
    """

    def __init__(self, ledger: Ledger, worker: str, clock: Clock, running: RunningCalls) -> None:
        self._ledger = ledger
        self._worker = worker
        self._clock = clock
        self._running = running
        self._rhythm = Periodic("the worker's sign of life", BEAT, self._beat, clock)
        self._looks_at = 0.0
        self._is_written = False

    def start(self) -> None:
        """Begin with a first sign; a ledger that is away at this moment is waited for."""
        self._running.lease_until = self._clock.monotonic()
        self._running.renew = self._beat
        self._looks_at = self._clock.monotonic() + LOOK_EVERY
        try:
            self._beat()
        except Unavailable as exc:
            _logger.warning("no call is taken on yet: %s", exc)
        self._rhythm.start()

    def stop(self) -> None:
        self._rhythm.stop()

    def refusal(self) -> str | None:
        """Why no work should come here; of the ledger only what the last sign of life showed, so nothing is written."""
        return self._running.refusal() if self._is_written else "unavailable"

    def _beat(self) -> None:
        now = self._clock.monotonic()
        try:
            cut = self._ledger.keep_alive(self._worker, LEASE)
        except Unavailable:
            self._is_written = False
            raise
        self._is_written = True
        was_frozen = now > self._running.lease_until  # so long that others may have judged what runs here
        self._running.lease_until = now + LEASE
        for attempt_name in cut:
            self._running.abort(attempt_name)
        if was_frozen or now >= self._looks_at:
            self._looks_at = now + LOOK_EVERY
            self._running.abort_judged()
