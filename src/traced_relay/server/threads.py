"""Threads that wait for work together, a few at a time; another one is started only when none is idle."""

from __future__ import annotations

import logging
from threading import Lock, Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_logger = logging.getLogger(__name__)

# As many wait in the kernel as avoids waking others for short work. More would only make the kernel choose.
_MAX_WAITING = 4


class Threads:
    """
    At most *most* threads that run *loop*; the last one that ends after `stop` calls *when_over*.

    A loop that has got work calls `leave` before it, so that another thread waits meanwhile, and `enter` after it.
    """

    def __init__(self, most: int, loop: Callable[[], None], when_over: Callable[[], None] = lambda: None) -> None:
        self._most = most
        self._loop = loop
        self._when_over = when_over
        self._lock = Lock()
        self._waiting = self._started = 0
        self._idle: list[Lock] = []  # the last one was busy last, so that few threads stay in the caches
        self._is_stopped = False

    def start(self) -> None:
        """Start the first thread."""
        self._waiting = self._started = 1
        self._start_thread()

    def _start_thread(self) -> None:
        Thread(target=self._run, name=f"request_{self._started}", daemon=True).start()

    def _run(self) -> None:
        self._loop()
        with self._lock:
            self._started -= 1
            is_last = self._is_stopped and not self._started
        if is_last:
            self._when_over()

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
            return
        try:
            self._start_thread()
        except (RuntimeError, MemoryError) as exc:  # a limit of processes: the threads that run take turns
            _logger.warning("cannot start a thread for a request: %s", exc)
            with self._lock:
                self._waiting -= 1
                self._started -= 1

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
            is_over = not self._started
        if is_over:
            self._when_over()
