"""Cuts connections whose time is up, by an injected clock. One thread for all of them."""

from __future__ import annotations

import socket
from contextlib import contextmanager, suppress
from threading import Condition, Thread
from typing import TYPE_CHECKING

from traced_relay.localqueue.agenda import Agenda

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traced_relay.clock import Clock


class Guard:
    """One attempt under watch. *is_cut* says that its end is the watch's doing."""

    def __init__(self) -> None:
        self.is_cut = False
        self.connection: socket.socket | None = None

    def cut(self) -> None:
        self.is_cut = True
        if self.connection is not None:
            # Wakes whoever reads or writes; past any TLS layer, which is not made for a second thread.
            with suppress(OSError):
                socket.socket.shutdown(self.connection, socket.SHUT_RDWR)


class Watch:
    """Holds the deadlines of all attempts in flight."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = Condition()
        self._guards: Agenda[Guard] = Agenda()
        self._is_over = False
        self._napping_until: float | None = None
        self._thread = Thread(target=self._keep, name="queue-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Cut all that is under watch, and all that comes under it later."""
        with self._changed:
            self._is_over = True
            while (guard := self._guards.pop_due(float("inf"))) is not None:
                guard.cut()
            self._changed.notify()
        self._thread.join()

    @property
    def is_over(self) -> bool:
        return self._is_over

    @contextmanager
    def over(self, seconds: float) -> Iterator[Guard]:
        """Watch what happens inside; after so many *seconds* it is cut."""
        guard = Guard()
        with self._changed:
            deadline = self._clock.monotonic() + seconds
            self._guards.put(guard, deadline)
            if self._napping_until is None or deadline < self._napping_until:
                self._napping_until = deadline
                self._changed.notify()
        try:
            yield guard
        finally:
            with self._changed:
                self._guards.discard(guard)

    def hold(self, guard: Guard, connection: socket.socket) -> None:
        """Let the *guard* cut this connection, at once if it is late."""
        with self._changed:
            guard.connection = connection
            if guard.is_cut or self._is_over:
                guard.cut()

    def release(self, guard: Guard) -> bool:
        """Let go of the connection; whether it is still whole."""
        with self._changed:
            guard.connection = None
            return not guard.is_cut

    def _keep(self) -> None:
        with self._changed:
            while not self._is_over:
                now = self._clock.monotonic()
                while (guard := self._guards.pop_due(now)) is not None:
                    guard.cut()
                self._napping_until = self._guards.next_time()
                wait = None if self._napping_until is None else max(self._napping_until - now, 0)
                self._clock.wait(self._changed, wait)
