"""Lines on their way to a descriptor that may block: a pipe that is not read, a terminal that was stopped."""

from __future__ import annotations

import fcntl
import io
import os
import select
import stat
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Condition, Event, Thread
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOST_LINES = 8 * 1024 * 1024  # bytes of lines that wait for the reader
MOST_COMMITS = 32 * 1024 * 1024  # bytes of records of commits that wait beside them
PATIENCE = 1.0  # seconds
_OVERHEAD = 100  # bytes that a line in memory takes beside its text


@dataclass
class _Share:
    """What waits of one kind of line, in bytes, and how many lines did not fit."""

    most: int
    taken: int = 0
    dropped: int = 0


@dataclass
class _Line:
    encoded: bytes
    share: _Share
    is_settled: Event = field(default_factory=Event)  # written, or not to be waited for

    @property
    def size(self) -> int:
        return len(self.encoded) + _OVERHEAD


class LineWriter:
    """
    Writes lines to *stream* in order: `leave` never waits for it, `write` at most 1 s.

    What a pipe takes at once is written at once; a thread of its own writes what would block.

    Once a line has waited so long, nobody waits again until the reader has taken all that is there. Lines that are
    left, beyond *most* bytes, and those of `write`, beyond *most_commits*, are dropped; *notice* makes of the numbers
    of both the line that says so.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        notice: Callable[[int, int], str],
        most: int = MOST_LINES,
        most_commits: int = MOST_COMMITS,
    ) -> None:
        self._stream = stream
        self._descriptor = _that_may_block(stream)
        self._pipe = _pipe(self._descriptor)
        self._notice = notice
        self._most, self._most_commits = most, most_commits
        self._is_awaited = True
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._poll = select.poll()  # a fork's own: one that a thread of the parent was in would refuse every call
        if self._pipe is not None:
            self._poll.register(self._pipe, select.POLLOUT)
        self._changed = Condition()  # never held while a line is written that may block
        self._waiting: deque[_Line] = deque()
        self._left, self._commits = _Share(self._most), _Share(self._most_commits)
        self._is_stalled = False
        self._thread: Thread | None = None

    def _enter(self) -> None:
        """Begin again in a forked process: the locks may be held, and the lines left, by threads of its parent."""
        if self._process != os.getpid():
            self._begin()

    def write(self, line: str) -> None:
        added = self._add(line, is_commit=True)
        if added is not None and not added.is_settled.wait(PATIENCE):
            with self._changed:
                self._is_stalled = bool(self._waiting)
                self._settle_all()

    def leave(self, line: str) -> None:
        self._add(line, is_commit=False)

    def stop_waiting(self) -> None:
        """Let no `write` wait any more: the process ends, and `flush` gives the reader its last moment."""
        self._enter()
        with self._changed:
            self._is_awaited = False
            self._settle_all()

    def flush(self, seconds: float) -> bool:
        """Whether within so many *seconds* all that was left is written."""
        self._enter()
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, seconds)

    def _add(self, line: str, *, is_commit: bool) -> _Line | None:
        """Queue the line; None if it is written at once, to memory or a file, or dropped."""
        self._enter()
        share = self._commits if is_commit else self._left
        if self._descriptor is None:
            with self._changed:
                self._stream.write(f"{line}\n")
                self._stream.flush()
            return None
        encoded = self._encoded(line)
        with self._changed:
            if not self._waiting and self._is_put_at_once(encoded):
                return None
            added = _Line(encoded, share)
            if share.taken + added.size > share.most:
                share.dropped += 1
                return None
            if self._is_stalled or not self._is_awaited:
                added.is_settled.set()
            self._queue(added)
        return added

    def _encoded(self, line: str) -> bytes:
        return f"{line}\n".encode(self._stream.encoding, "backslashreplace")

    def _is_put_at_once(self, encoded: bytes) -> bool:
        """Whether the pipe had room for all of it: one that is writable takes PIPE_BUF bytes (POSIX, write)."""
        if self._pipe is None or len(encoded) > select.PIPE_BUF:
            return False
        try:
            fcntl.lockf(self._pipe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another process is writing, or the system has no locks on pipes
            return False
        try:
            writable = self._poll.poll(0)
            return writable == [(self._pipe, select.POLLOUT)] and os.write(self._pipe, encoded) == len(encoded)
        except OSError:
            return False
        finally:
            with suppress(OSError):
                fcntl.lockf(self._pipe, fcntl.LOCK_UN)

    def _queue(self, added: _Line) -> None:
        self._waiting.append(added)
        added.share.taken += added.size
        if self._thread is None:
            self._thread = Thread(target=self._write_on, name="log-writer", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _settle_all(self) -> None:
        for line in self._waiting:
            line.is_settled.set()

    def _write_on(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                line = self._waiting[0]
            self._put(line.encoded)
            line.is_settled.set()
            with self._changed:
                if len(self._waiting) == 1:
                    self._is_stalled = False
                    self._queue_notice()
                self._waiting.popleft()
                line.share.taken -= line.size
                self._changed.notify_all()

    def _queue_notice(self) -> None:
        commits, left = self._commits.dropped, self._left.dropped
        if commits or left:
            self._commits.dropped = self._left.dropped = 0
            self._queue(_Line(self._encoded(self._notice(commits, left)), self._left))

    def _put(self, encoded: bytes) -> None:
        """Write past the stream's own buffer: a blocked thread that held its lock at exit would end the process."""
        assert self._descriptor is not None  # noqa: S101  (nothing is queued without it)
        with suppress(OSError, ValueError), _alone(self._descriptor):  # the reader has gone, and no one can be notified
            while encoded:
                try:
                    encoded = encoded[os.write(self._descriptor, encoded) :]
                except BlockingIOError:
                    select.select([], [self._descriptor], [])


@contextmanager
def _alone(descriptor: int) -> Iterator[None]:
    """
    Hold the lock of the pipe or socket, so that no line stands in the middle of another process's.

    A parent and its forks write to one pipe, which takes more than 4,096 bytes in pieces. Every line needs the lock:
    a short one without it would come between the pieces of a long one.
    """
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        yield
        return
    with suppress(OSError):  # a system without locks on pipes
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.lockf(descriptor, fcntl.LOCK_UN)


def _pipe(descriptor: int | None) -> int | None:
    return descriptor if descriptor is not None and stat.S_ISFIFO(os.fstat(descriptor).st_mode) else None


def _that_may_block(stream: TextIO) -> int | None:
    """The descriptor behind *stream*; None for memory and regular files."""
    try:
        descriptor = stream.fileno()
        return None if stat.S_ISREG(os.fstat(descriptor).st_mode) else descriptor
    except (AttributeError, OSError, ValueError, io.UnsupportedOperation):
        return None
