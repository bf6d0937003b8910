"""The worker's lease: one write every few seconds for all the calls it runs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from traced_relay.errors import Unavailable
from traced_relay.runtime.periodic import Periodic

if TYPE_CHECKING:
    from traced_relay.ledger.protocol import Ledger
    from traced_relay.relay.running_calls import RunningCalls
    from traced_relay.runtime.clock import Clock

RENEW_EVERY = 5.0
LEASE = 15.0
READ_ROWS_EVERY = 60.0  # finds cancelled calls whose abort request was lost; reads the row of each running call

_logger = logging.getLogger(__name__)


class LeaseKeeper:
    """
    Renews the lease of *worker* in the ledger until it is stopped; other workers take a dead one's calls for lost.

    Each renewal returns the calls to abort. Without a renewal for as long as a lease, no call starts.
    """

    def __init__(self, ledger: Ledger, worker: str, clock: Clock, running_calls: RunningCalls) -> None:
        self._ledger = ledger
        self._worker = worker
        self._clock = clock
        self._running_calls = running_calls
        self._periodic = Periodic("the lease renewal", RENEW_EVERY, self._renew, clock)
        self._reads_rows_at = 0.0
        self._is_written = False

    def start(self) -> None:
        """Renew the lease for the first time, now or as soon as the ledger is available."""
        self._running_calls.lease_until = self._clock.monotonic()
        self._running_calls.renew = self._renew
        self._reads_rows_at = self._clock.monotonic() + READ_ROWS_EVERY
        try:
            self._renew()
        except Unavailable as exc:
            _logger.warning("no call starts until the ledger is available: %s", exc)
        self._periodic.start()

    def stop(self) -> None:
        self._periodic.stop()

    def refusal(self) -> str | None:
        """Why no call can start, by the result of the last renewal; nothing is written."""
        return self._running_calls.refusal() if self._is_written else "unavailable"

    def _renew(self) -> None:
        now = self._clock.monotonic()
        try:
            to_abort = self._ledger.keep_alive(self._worker, LEASE)
        except Unavailable:
            self._is_written = False
            raise
        self._is_written = True
        has_lapsed = now > self._running_calls.lease_until  # other workers may have judged what runs here
        self._running_calls.lease_until = now + LEASE
        for attempt_name in to_abort:
            self._running_calls.abort(attempt_name)
        if has_lapsed or now >= self._reads_rows_at:
            self._reads_rows_at = now + READ_ROWS_EVERY
            self._running_calls.abort_judged()
