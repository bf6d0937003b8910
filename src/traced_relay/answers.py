"""
How an answer begins: read more strictly than http.client does, so that no half answer passes for a whole one.

What is refused raises an HTTPException before anybody has looked at a header.
"""

from __future__ import annotations

import http.client
import io
import re
from email.errors import (
    FirstHeaderLineIsContinuationDefect,
    InvalidHeaderDefect,
    MisplacedEnvelopeHeaderDefect,
    MissingHeaderBodySeparatorDefect,
)
from http import HTTPStatus
from typing import Any

# A line without a colon, or a name with a space: the parser ends the headers there, and says no more than this.
_FLAWS = (
    FirstHeaderLineIsContinuationDefect,
    InvalidHeaderDefect,
    MisplacedEnvelopeHeaderDefect,
    MissingHeaderBodySeparatorDefect,
)


class _Lines(io.BufferedReader):
    """What comes in; *last* is the line that was read last."""

    last = b""

    def readline(self, size: int | None = -1, /) -> bytes:
        self.last = super().readline(size)
        if re.search(rb"\r(?=[^\n])|\0", self.last):  # some would see two lines (RFC 9112, section 2.2)
            raise http.client.HTTPException("a line with a bare CR or a NUL")
        return self.last


class Answer(http.client.HTTPResponse):
    """An answer that has a status line of HTTP/1, and headers that were not cut off; none that is interim."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fp = self._lines = _Lines(self.fp.detach())
        self._is_awaited = False

    def begin(self) -> None:
        super().begin()
        if not self._lines.last.endswith(b"\n"):
            raise http.client.IncompleteRead(b"")  # http.client takes the connection's end for that of the headers
        if any(isinstance(defect, _FLAWS) for defect in self.msg.defects):
            raise http.client.HTTPException("a header line that is none")

    def _read_status(self) -> tuple[str, int, str]:
        """The status line of the final answer; http.client passes over 100 alone (RFC 9110, section 15.2)."""
        if self._is_awaited and not self._lines.peek(1):
            raise http.client.BadStatusLine("an interim answer, and no other")
        version, status, reason = super()._read_status()  # type: ignore[misc]
        if not re.match(rb"HTTP/1\.[0-9] [0-9]{3}(?![^ \r\n])", self._lines.last):  # it would take +200 and 2_00
            raise http.client.BadStatusLine(repr(self._lines.last[:100]))
        self._is_awaited = HTTPStatus.SWITCHING_PROTOCOLS < status < HTTPStatus.OK
        return version, HTTPStatus.CONTINUE if self._is_awaited else status, reason
