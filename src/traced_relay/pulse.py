"""The worker's sign of life: one write every few seconds for all the calls it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from traced_relay.rhythm import Rhythm

if TYPE_CHECKING:
    from traced_relay.clock import Clock
    from traced_relay.ledger import Ledger
    from traced_relay.running import RunningCalls

BEAT = 5.0
LEASE = 15.0


class Pulse:
    """
    Keeps *worker* alive in the ledger until it is stopped; a process that dies is believed dead a lease later.

    With each sign of life it learns which of its calls were cancelled.
    """

    def __init__(self, ledger: Ledger, worker: str, clock: Clock, running: RunningCalls) -> None:
        self._ledger = ledger
        self._worker = worker
        self._clock = clock
        self._running = running
        self._rhythm = Rhythm("the worker's sign of life", BEAT, self._beat, clock)
        self._alive_until = 0.0

    def start(self) -> None:
        self._beat()
        self._rhythm.start()

    def stop(self) -> None:
        self._rhythm.stop()

    def _beat(self) -> None:
        now = self._clock.monotonic()
        for task_id in self._ledger.keep_alive(self._worker, LEASE):
            self._running.cut(task_id)
        if now > self._alive_until:
            # Frozen, or away from the ledger, for so long that others may have judged what runs here.
            self._running.cut_judged()
        self._alive_until = now + LEASE
