"""Threads that send dispatches over HTTP, one per attempt in flight, started as needed."""

from __future__ import annotations

import logging
from contextlib import suppress
from queue import SimpleQueue
from threading import Lock, Thread, current_thread
from typing import TYPE_CHECKING

from traced_relay.emulator.attempts import Dispatch, End, Outcome
from traced_relay.emulator.backoff import seconds
from traced_relay.emulator.http_client import BrokenExchange, Connections, Reply, exchange
from traced_relay.emulator.http_request import NoSuchTarget, request_for
from traced_relay.runtime.clock import SystemClock
from traced_relay.runtime.watchdog import Deadline, Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from traced_relay.emulator.service import Service
    from traced_relay.runtime.clock import Clock

_log = logging.getLogger(__name__)
_IDLE_THREADS = 32
_STOP_SECONDS = 2.0


class Dispatcher:
    """
    Sends the dispatches of *service* until it is stopped.

    *mint* signs the ID token for an email and an audience; *app_engine* maps App Engine services to URLs
    (`default` for the rest), and may change at any time.
    """

    def __init__(
        self,
        service: Service,
        clock: Clock,
        *,
        mint: Callable[[str, str], str],
        app_engine: MutableMapping[str, str],
        idle_threads: int = _IDLE_THREADS,
    ) -> None:
        self._service = service
        self._mint = mint
        self._app_engine = app_engine
        self._most_idle = idle_threads
        self._watch = Watchdog(clock)
        self._connections = Connections(clock)
        self._work: SimpleQueue[Dispatch | None] = SimpleQueue()
        self._lock = Lock()
        self._threads: set[Thread] = set()
        self._idle = 0
        self._timer = Thread(target=service.run_timer, name="queue-timer", daemon=True)

    def start(self) -> None:
        self._watch.start()
        self._add_thread()
        self._service.start_delivering(self._work.put)
        self._timer.start()

    def stop(self) -> None:
        """
        Abort the attempts in flight and end.

        The service gets no outcome of aborted attempts: they count as in flight, and the next start from
        its store sends them again.
        """
        self._service.stop_delivering()
        self._timer.join()
        self._watch.stop()
        with self._lock:
            threads = tuple(self._threads)
        self._work.put(None)
        timer = SystemClock()
        deadline = timer.monotonic() + _STOP_SECONDS
        for thread in threads:
            # A connect cannot be aborted; its thread ends later, without a result.
            thread.join(max(0.0, deadline - timer.monotonic()))
        self._connections.close()

    def _add_thread(self) -> None:
        thread = Thread(target=self._run, name="queue-pusher", daemon=True)
        # A machine without more threads sends with the existing ones.
        with self._lock, suppress(RuntimeError):
            thread.start()
            self._threads.add(thread)
            self._idle += 1

    def _run(self) -> None:
        while (dispatch := self._work.get()) is not None:
            # One thread always waits for the next dispatch.
            if self._leave_idle():
                self._add_thread()
            outcome = self._attempt(dispatch)
            if outcome is not None:
                self._service.finish(dispatch, outcome)
            if not self._return_to_idle():
                return
        self._work.put(None)  # for the next thread

    def _leave_idle(self) -> bool:
        """Whether no thread is idle now."""
        with self._lock:
            self._idle -= 1
            return self._idle == 0

    def _return_to_idle(self) -> bool:
        """Whether to keep this thread."""
        with self._lock:
            if self._idle >= self._most_idle and not self._watch.is_stopped:
                self._threads.discard(current_thread())
                return False
            self._idle += 1
            return True

    def _attempt(self, dispatch: Dispatch) -> Outcome | None:
        """The outcome of the attempt; None if it was aborted because the dispatcher stops."""
        longest = seconds(dispatch.task.dispatch_deadline)
        with self._watch.deadline(longest) as deadline:
            try:
                reply = self._send(dispatch, longest, deadline)
            except (OSError, NoSuchTarget, BrokenExchange, UnicodeError):
                if self._watch.is_stopped:
                    return None
                return Outcome(End.DEADLINE if deadline.is_aborted else End.UNREACHABLE)
            except Exception:  # noqa: BLE001  (else the task would stay in flight for ever)
                _log.exception("cannot send the dispatch of %s", dispatch.task.name)
                return Outcome(End.UNREACHABLE)
        return Outcome(End.RESPONDED, reply.status, reply.retry_after)

    def _send(self, dispatch: Dispatch, longest: float, deadline: Deadline) -> Reply:
        request = request_for(dispatch, self._app_engine, self._mint)
        connection = self._connections.get(request.origin, longest, deadline.attach)
        is_reusable = False
        try:
            reply = exchange(connection, request.message, request.method)
            is_reusable = reply.is_reusable
        finally:
            if deadline.detach() and is_reusable:
                self._connections.put(request.origin, connection)
            else:
                connection.close()
        return reply
