"""The current step, in one line on a terminal; elsewhere nothing."""

from __future__ import annotations

import sys
from typing import TextIO


class Progress:
    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._bench = ""

    def begin(self, bench: str) -> None:
        self._bench = bench
        self.say("starting")

    def say(self, text: str) -> None:
        self._write(f"{self._bench}: {text}"[:110])

    def clear(self) -> None:
        self._write("")

    def _write(self, line: str) -> None:
        if self._stream.isatty():
            self._stream.write(f"\r\033[K{line}")
            self._stream.flush()
