"""The worker's sign of life: one write every few seconds for all the calls it runs."""

from __future__ import annotations

import logging
from threading import Condition, Thread
from typing import TYPE_CHECKING

from traced_relay.errors import Unavailable

if TYPE_CHECKING:
    from traced_relay.clock import Clock
    from traced_relay.ledger import Ledger

BEAT = 5.0
LEASE = 15.0

_logger = logging.getLogger(__name__)


class Pulse:
    """Keeps *worker* alive in the ledger until it is stopped; a process that dies is believed dead a lease later."""

    def __init__(self, ledger: Ledger, worker: str, clock: Clock) -> None:
        self._ledger = ledger
        self._worker = worker
        self._clock = clock
        self._stop = Condition()
        self._stopped = False
        self._thread = Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        self._ledger.keep_alive(self._worker, LEASE)
        self._thread.start()

    def stop(self) -> None:
        with self._stop:
            self._stopped = True
            self._stop.notify_all()
        self._thread.join()

    def _run(self) -> None:
        with self._stop:
            while not self._stopped:
                self._clock.wait(self._stop, BEAT)
                if not self._stopped:
                    self._beat()

    def _beat(self) -> None:
        try:
            self._ledger.keep_alive(self._worker, LEASE)
        except Unavailable as exc:
            _logger.warning("the worker's sign of life could not be written: %s", exc)
