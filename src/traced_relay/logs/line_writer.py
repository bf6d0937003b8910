"""Writes lines to a stream that may block, such as a pipe without a reader or a stopped terminal."""

from __future__ import annotations

import io
import os
import select
import stat
from collections import deque
from contextlib import suppress
from threading import Condition, Lock, Thread
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_WAITING = 10_000  # lines


class LineWriter:
    """
    Writes lines in order: `write` returns once its line is written, `write_later` returns at once.

    The next `write` or a thread writes the waiting lines. If *max_waiting* lines wait, further ones are dropped;
    *notice* returns the line that reports their number.
    """

    def __init__(self, stream: TextIO, *, notice: Callable[[int], str], max_waiting: int = MAX_WAITING) -> None:
        self._stream = stream
        self._descriptor = _blocking_descriptor(stream)
        self._notice = notice
        self._max_waiting = max_waiting
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._writing = Lock()
        self._changed = Condition()  # never held while a line is written
        self._waiting: deque[str] = deque()
        self._dropped = 0
        self._thread: Thread | None = None

    def _reset_after_fork(self) -> None:
        """In a forked process the parent's threads may hold the locks, and the parent writes the waiting lines."""
        if self._process != os.getpid():
            self._reset()

    def write(self, line: str) -> None:
        self._reset_after_fork()
        with self._writing:
            self._write_waiting()
            self._write_line(line)

    def write_later(self, line: str) -> None:
        if self._descriptor is None:
            self.write(line)
            return
        self._reset_after_fork()
        with self._changed:
            if len(self._waiting) >= self._max_waiting:
                self._dropped += 1
                return
            self._waiting.append(line)
            if self._thread is None:
                self._thread = Thread(target=self._run, name="log lines", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """Whether all lines are written within *seconds*."""
        self._reset_after_fork()
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
            with self._writing:
                self._write_waiting()

    def _write_waiting(self) -> None:
        while self._waiting:
            with suppress(OSError, ValueError):  # the reader has gone
                self._write_line(self._waiting[0])
            with self._changed:
                self._waiting.popleft()
                dropped, self._dropped = (self._dropped, 0) if not self._waiting else (0, self._dropped)
                self._changed.notify_all()
            if dropped:
                with suppress(OSError, ValueError):
                    self._write_line(self._notice(dropped))

    def _write_line(self, line: str) -> None:
        if self._descriptor is None:
            self._stream.write(f"{line}\n")
            self._stream.flush()
            return
        # Bypasses the stream's buffer: if a blocked thread held its lock at exit, the interpreter would abort.
        encoded = f"{line}\n".encode(self._stream.encoding, "backslashreplace")
        while encoded:
            try:
                encoded = encoded[os.write(self._descriptor, encoded) :]
            except BlockingIOError:
                select.select([], [self._descriptor], [])


def _blocking_descriptor(stream: TextIO) -> int | None:
    """None for memory and regular files, which never block."""
    try:
        descriptor = stream.fileno()
        return None if stat.S_ISREG(os.fstat(descriptor).st_mode) else descriptor
    except (AttributeError, OSError, ValueError, io.UnsupportedOperation):
        return None
