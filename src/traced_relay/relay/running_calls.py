"""The calls that this process runs: their capacity, their heartbeats and their end."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING

from msgspec import Struct

from traced_relay.errors import Unavailable
from traced_relay.formats.durations import ms_between
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


class _Call(Struct, frozen=True):
    row: Row
    delivery: Delivery
    deadline: Deadline
    started: float


class RunningCalls:
    """
    At most *capacity* calls at once; each logs a heartbeat every *heartbeat* seconds.

    *worker* is this process's id in the *ledger*. After `lease_until`, in monotonic time, other workers may judge
    the calls; `renew` extends it, or raises Unavailable.
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
        self._watchdog = Watchdog(clock)
        self._calls: dict[str, _Call] = {}
        self._lock = Lock()
        self._is_stopping = False
        self.lease_until = float("inf")
        self.renew: Callable[[], None] = lambda: None

    def start(self) -> None:
        self._watchdog.start()

    def refusal(self) -> str | None:
        """Why no further call can start; None if one can."""
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
        Status of the worker that runs *row*; for this process's own calls the table in memory decides.

        While stopping, the ledger decides: it knows which calls were aborted before anything was sent.
        """
        if row.worker == self._worker and row.attempt_name in self._calls:
            return Holder.ALIVE
        if row.worker != self._worker or self._is_stopping:
            return self._ledger.holder_of(row)
        return Holder.LOST

    @contextmanager
    def hold(self, row: Row, delivery: Delivery) -> Iterator[Deadline | None]:
        """The deadline of the call of *row*; None if that attempt is in progress here already, or while stopping."""
        key, started = row.attempt_name, self._clock.monotonic()
        log_heartbeat = partial(self._log_heartbeat, row, delivery, started)
        with self._watchdog.deadline(row.call.timeout, every=self._heartbeat, beat=log_heartbeat) as deadline:
            with self._lock:
                is_refused = self._is_stopping or key in self._calls
                if not is_refused:
                    self._calls[key] = _Call(row, delivery, deadline, started)
            if is_refused:
                yield None
                return
            try:
                yield deadline
            finally:
                with self._lock:
                    del self._calls[key]

    def abort(self, attempt_name: str) -> None:
        """Abort the call of a cancelled attempt, if it is still running."""
        with self._lock:
            call = self._calls.get(attempt_name)
        if call is not None:
            self._watchdog.abort(call.deadline, "cancelled")

    def abort_judged(self) -> None:
        """Abort the calls that were cancelled, or that another worker judged after this one's lease had run out."""
        with self._lock:
            calls = list(self._calls.values())
        stored = self._ledger.get_many([call.row.task_id for call in calls]) if calls else {}
        for call in calls:
            if not _is_running(call.row, stored.get(call.row.task_id)):
                self._watchdog.abort(call.deadline, "cancelled")

    def stop(self, signal: str) -> list[str] | None:
        """
        Mark every call as interrupted and log it; returns the attempts of which nothing was sent, None the second time.

        The next delivery judges them. `abort_all` closes the connections: doing it here would wake all their threads,
        and delay these records.
        """
        with self._lock:
            if self._is_stopping:
                return None
            self._is_stopping = True
            calls = list(self._calls.values())
        self._watchdog.halt()
        self._task_log.stopping(signal, len(calls))
        for call in calls:
            fields = {
                "elapsed_ms": ms_between(call.started, self._clock.monotonic()),
                "request_sent": call.deadline.was_sent,
            }
            self._task_log.log_event(LogEvent("attempt.interrupted", fields), call.row, call.delivery)
        return [call.row.attempt_name for call in calls if not call.deadline.was_sent]

    def abort_all(self) -> None:
        """Close the connections of all calls, and of those that start later."""
        self._watchdog.stop()

    def _log_heartbeat(self, row: Row, delivery: Delivery, started: float) -> None:
        elapsed_ms = ms_between(started, self._clock.monotonic())
        fields = {"elapsed_ms": elapsed_ms, "deadline_in_ms": max(0, round(row.call.timeout * 1000) - elapsed_ms)}
        self._task_log.log_event(LogEvent("attempt.heartbeat", fields), row, delivery)


def _is_running(row: Row, stored: Row | None) -> bool:
    """Whether the attempt runs according to the ledger, or has yet to be committed as started."""
    if stored is None:
        return False
    return stored.revision < row.revision or (stored.state, stored.attempt) == ("running", row.attempt)
