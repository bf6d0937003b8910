"""The calls that this process runs: room for them, their signs of life, and the end of them all."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING

from traced_relay.errors import Unavailable
from traced_relay.runtime.watchdog import Watchdog
from traced_relay.tasks.state_machine import Holder, LogEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from traced_relay.cloud_tasks.delivery import Delivery
    from traced_relay.ledger.protocol import Ledger
    from traced_relay.relay.task_log import TaskLog
    from traced_relay.runtime.clock import Clock
    from traced_relay.runtime.watchdog import Deadline
    from traced_relay.tasks.row import Row


@dataclass(frozen=True)
class _Call:
    row: Row
    delivery: Delivery
    deadline: Deadline
    started: float


class AlreadyHeld(Exception):
    """Another delivery of the same attempt is being worked on in this process, or none is any more."""


class RunningCalls:
    """
    At most *capacity* at once; each says that it lives *heartbeat* seconds after the last time it did.

    *worker* is the name under which the *ledger* has them, `lease_until` the
    moment from which on others may judge them, by the clock's monotonic time;
    `renew` puts it off, or raises Unavailable.
    """

    def __init__(
        self, clock: Clock, task_log: TaskLog, ledger: Ledger, *, worker: str, capacity: int, heartbeat: float
    ) -> None:
        self._clock = clock
        self._task_log = task_log
        self._ledger = ledger
        self._worker = worker
        self._capacity = capacity
        self._heartbeat = heartbeat
        self._watch = Watchdog(clock)
        self._calls: dict[str, _Call] = {}
        self._lock = Lock()
        self._is_stopping = False
        self.lease_until = float("inf")
        self.renew: Callable[[], None] = lambda: None

    def start(self) -> None:
        self._watch.start()

    def refusal(self) -> str | None:
        """Why no further call can be taken on; None if one can."""
        if self._is_stopping:
            return "stopping"
        if self._clock.monotonic() > self.lease_until and not self._is_renewed():
            return "unavailable"
        return "capacity" if len(self._calls) >= self._capacity else None

    def _is_renewed(self) -> bool:
        try:
            self.renew()
        except Unavailable:
            return False
        return True

    def holder_of(self, row: Row) -> Holder:
        """
        What became of whoever runs *row*: of calls of its own this process knows best.

        Of those that it has cut itself the ledger was told, with whether anything had been sent.
        """
        if row.worker == self._worker and row.attempt_name in self._calls:
            return Holder.ALIVE
        if row.worker != self._worker or self._is_stopping:
            return self._ledger.holder_of(row)
        return Holder.LOST

    @contextmanager
    def hold(self, row: Row, delivery: Delivery) -> Iterator[Deadline]:
        """Watch the call of *row* while what is inside makes it; AlreadyHeld if somebody here does that already."""
        key, started = row.attempt_name, self._clock.monotonic()
        beat = partial(self._beat, row, delivery, started)
        with self._watch.deadline(row.call.timeout, every=self._heartbeat, beat=beat) as deadline:
            with self._lock:
                if self._is_stopping or key in self._calls:
                    raise AlreadyHeld
                self._calls[key] = _Call(row, delivery, deadline, started)
            try:
                yield deadline
            finally:
                with self._lock:
                    del self._calls[key]

    def abort(self, attempt_name: str) -> None:
        """End the call of that attempt, if it is out: it was cancelled."""
        with self._lock:
            call = self._calls.get(attempt_name)
        if call is not None:
            self._watch.abort(call.deadline, "cancelled")

    def abort_judged(self) -> None:
        """End what somebody else has cancelled, or has judged while this process could not be seen to live."""
        with self._lock:
            out = list(self._calls.values())
        stored = self._ledger.get_many([call.row.task_id for call in out]) if out else {}
        for call in out:
            if not _is_still(call.row, stored.get(call.row.task_id)):
                self._watch.abort(call.deadline, "cancelled")

    def stop(self, signal: str) -> list[str] | None:
        """
        Let every call count as cut, and say so; the names of those attempts of which nothing had been sent, None the
        second time.

        What becomes of them is for the next delivery to judge. The connections are
        left for `cut_all`: all those threads, once awake, would keep this one from saying anything.
        """
        with self._lock:
            if self._is_stopping:
                return None
            self._is_stopping = True
            cut = list(self._calls.values())
        self._watch.halt()
        self._task_log.stopping(signal, len(cut))
        for call in cut:
            fields = {"elapsed_ms": self._ms_since(call.started), "request_sent": call.deadline.was_sent}
            self._task_log.step(LogEvent("attempt.interrupted", fields), call.row, call.delivery)
        return [call.row.attempt_name for call in cut if not call.deadline.was_sent]

    def abort_all(self) -> None:
        """Wake whoever still waits for an answer."""
        self._watch.stop()

    def _beat(self, row: Row, delivery: Delivery, started: float) -> None:
        elapsed_ms = self._ms_since(started)
        fields = {"elapsed_ms": elapsed_ms, "deadline_in_ms": max(0, round(row.call.timeout * 1000) - elapsed_ms)}
        self._task_log.step(LogEvent("attempt.heartbeat", fields), row, delivery)

    def _ms_since(self, started: float) -> int:
        return round((self._clock.monotonic() - started) * 1000)


def _is_still(row: Row, stored: Row | None) -> bool:
    """Whether the ledger has that attempt as running still; not begun yet is not judged."""
    if stored is None:
        return False
    return stored.revision < row.revision or (stored.state, stored.attempt) == ("running", row.attempt)
