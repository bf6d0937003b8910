"""Lines on their way to a descriptor that may block: a pipe that is not read, a terminal that was stopped."""

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

MOST_LEFT = 10_000


class LineWriter:
    """
    Writes lines to *stream*: `write` returns once the line is written, `leave` never waits.

    A line that was left is written by the next `write` or by a thread of the
    outlet, in order. Beyond *most* such lines further ones are dropped;
    *notice* makes of their number the line that says so.
    """

    def __init__(self, stream: TextIO, *, notice: Callable[[int], str], most: int = MOST_LEFT) -> None:
        self._stream = stream
        self._descriptor = _that_may_block(stream)
        self._notice = notice
        self._most = most
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._writing = Lock()
        self._changed = Condition()  # never held while a line is written
        self._left: deque[str] = deque()
        self._dropped = 0
        self._thread: Thread | None = None

    def _enter(self) -> None:
        """Begin again in a forked process: the locks may be held, and the lines left, by threads of its parent."""
        if self._process != os.getpid():
            self._begin()

    def write(self, line: str) -> None:
        self._enter()
        with self._writing:
            self._write_left()
            self._put(line)

    def leave(self, line: str) -> None:
        if self._descriptor is None:
            self.write(line)
            return
        self._enter()
        with self._changed:
            if len(self._left) >= self._most:
                self._dropped += 1
                return
            self._left.append(line)
            if self._thread is None:
                self._thread = Thread(target=self._write_on, name="outlet", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """Whether within so many *seconds* all that was left is written."""
        self._enter()
        with self._changed:
            return self._changed.wait_for(lambda: not self._left, seconds)

    def _write_on(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._left)
            with self._writing:
                self._write_left()

    def _write_left(self) -> None:
        while self._left:
            with suppress(OSError, ValueError):  # the reader has gone, and nobody can be told
                self._put(self._left[0])
            with self._changed:
                self._left.popleft()
                dropped, self._dropped = (self._dropped, 0) if not self._left else (0, self._dropped)
                self._changed.notify_all()
            if dropped:
                with suppress(OSError, ValueError):
                    self._put(self._notice(dropped))

    def _put(self, line: str) -> None:
        if self._descriptor is None:
            self._stream.write(f"{line}\n")
            self._stream.flush()
            return
        # Past the stream's own buffer, whose lock would end the process if a blocked thread held it at exit.
        encoded = f"{line}\n".encode(self._stream.encoding, "backslashreplace")
        while encoded:
            try:
                encoded = encoded[os.write(self._descriptor, encoded) :]
            except BlockingIOError:
                select.select([], [self._descriptor], [])


def _that_may_block(stream: TextIO) -> int | None:
    """The descriptor behind *stream*; None for memory and regular files."""
    try:
        descriptor = stream.fileno()
        return None if stat.S_ISREG(os.fstat(descriptor).st_mode) else descriptor
    except (AttributeError, OSError, ValueError, io.UnsupportedOperation):
        return None
