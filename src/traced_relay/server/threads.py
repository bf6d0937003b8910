"""Threads that wait for work together, a few at a time; another one is started only when none is idle."""

from __future__ import annotations

from threading import Lock, Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# As many wait in the kernel as avoids waking others for short work. More would only make the kernel choose.
_MAX_WAITING = 4


class Threads:
    """
    At most *most* threads that run *loop*.

    A loop that has got work calls `leave` before it, so that another thread waits meanwhile, and `enter` after it.
    """

    def __init__(self, most: int, loop: Callable[[], None]) -> None:
        self._most = most
        self._loop = loop
        self._lock = Lock()
        self._waiting = self._started = 0
        self._idle: list[Lock] = []  # the last one was busy last, so that few threads stay in the caches
        self._is_stopped = False

    def start(self) -> None:
        """Start the first thread."""
        self._waiting = 1
        self.leave()

    def leave(self) -> None:
        with self._lock:
            self._waiting -= 1
            if self._waiting or not (self._idle or self._started < self._most):
                return
            self._waiting = 1
            idle = self._idle.pop() if self._idle else None
            self._started += idle is None
        if idle is not None:
            idle.release()
        else:
            Thread(target=self._loop, name=f"request_{self._started}", daemon=True).start()

    def enter(self) -> None:
        """Wait until this thread may wait for work."""
        with self._lock:
            if self._waiting < _MAX_WAITING or self._is_stopped:
                self._waiting += 1
                return
            idle = Lock()
            idle.acquire()
            self._idle.append(idle)
        idle.acquire()

    def stop(self) -> None:
        """Let idle threads go on, for the last time."""
        with self._lock:
            self._is_stopped = True
            for idle in self._idle:
                idle.release()
            self._idle.clear()
