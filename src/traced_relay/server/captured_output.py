"""
Turns all other output of the process into log entries: uncaught exceptions, warnings, lines of C libraries.

Cloud Logging makes each line of output an entry, and one that is not JSON has no severity.
"""

from __future__ import annotations

import logging
import os
import re
import select
import sys
import threading
from threading import Thread
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from types import TracebackType

_CHUNK = 64 * 1024
_MAX_BYTES = 256 * 1024  # that one read may collect
_PAUSE = 0.1  # seconds without output after which a traceback is complete
_JOIN_SECONDS = 0.5
_STDOUT, _STDERR = 1, 2
_TRACE = re.compile(r"^(?:Traceback \(most recent call |Fatal Python error: )", re.MULTILINE)
_LEVEL = re.compile(r"([IWEF])[0-9]{4} |(info|warning|error|fatal|critical)\b", re.IGNORECASE)
_LEVELS = {"I": logging.INFO, "W": logging.WARNING, "E": logging.ERROR, "F": logging.CRITICAL, "C": logging.CRITICAL}

_logger = logging.getLogger(__name__)


def log_uncaught() -> None:
    """Log what Python itself prints to stderr."""

    def of_the_process(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        _logger.critical("the process ended with an uncaught exception", exc_info=(kind, error, trace))

    def of_a_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit and args.exc_value is not None:
            name = args.thread.name if args.thread else "unknown"
            failure = (args.exc_type, args.exc_value, args.exc_traceback)
            _logger.error("thread %s ended with an uncaught exception", name, exc_info=failure)

    def without_a_caller(unraisable: sys.UnraisableHookArgs) -> None:
        what, error = unraisable.object, unraisable.exc_value
        failure = None if error is None else (unraisable.exc_type, error, unraisable.exc_traceback)
        name = getattr(what, "__qualname__", type(what).__qualname__)
        _logger.error("%s: %s", unraisable.err_msg or "Exception ignored in", name, exc_info=failure)

    sys.excepthook = of_the_process
    threading.excepthook = of_a_thread
    sys.unraisablehook = without_a_caller
    logging.captureWarnings(capture=True)


class CapturedOutput:
    """
    A thread logs the output of this process and of those that it forks; *stream* is the real stdout.

    Output of a forked process that is killed is logged; the last output of this process can be lost.
    """

    def __enter__(self) -> Self:
        self._process = os.getpid()
        self._real = [os.dup(descriptor) for descriptor in (_STDOUT, _STDERR)]
        self.stream: TextIO = os.fdopen(os.dup(_STDOUT), "w", encoding="utf-8")
        self._reading, writing = os.pipe()
        os.register_at_fork(after_in_child=self._close_reading)
        for descriptor in (_STDOUT, _STDERR):
            os.dup2(writing, descriptor)
        os.close(writing)
        self._thread = Thread(target=self._run, name="captured-output", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if os.getpid() != self._process:
            return
        sys.stdout.flush()
        for real, descriptor in zip(self._real, (_STDOUT, _STDERR), strict=True):
            os.dup2(real, descriptor)
            os.close(real)
        self._thread.join(_JOIN_SECONDS)

    def _close_reading(self) -> None:
        """Close the reading end in a forked process, which then gets an error if this process ends."""
        if self._process != os.getpid() and self._reading >= 0:
            os.close(self._reading)
            self._reading = -1  # in a fork of the fork the number may be another file's

    def _run(self) -> None:
        while output := os.read(self._reading, _CHUNK):
            while len(output) < _MAX_BYTES and select.select([self._reading], [], [], _PAUSE)[0]:
                more = os.read(self._reading, _CHUNK)
                if not more:
                    break
                output += more
            _log_output(output.decode(errors="replace"))


def _log_output(text: str) -> None:
    """Log one entry a line, and one for a traceback with all that follows it."""
    found = _TRACE.search(text)
    before = text[: found.start()] if found else text
    for line in filter(str.strip, before.splitlines()):
        level = _LEVEL.match(line)
        _log(_LEVELS[(level[1] or level[2])[0].upper()] if level else logging.WARNING, line)
    if found:
        trace = text[found.start() :].rstrip()
        lines = trace.splitlines()
        _log(logging.ERROR, lines[0] if lines[0].startswith("Fatal") else lines[-1], trace)


def _log(level: int, message: str, trace: str | None = None) -> None:
    logging.getLogger().handle(logging.LogRecord("output", level, "", 0, message, (), None, sinfo=trace))
