"""
HTTP responses read more strictly than http.client does, so that no incomplete response passes for a complete one.

A malformed response raises an HTTPException before its headers are read.
"""

from __future__ import annotations

import http.client
import io
import math
import re
import time
from contextlib import suppress
from email.parser import HeaderParser
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

_MOST_HEAD = 64 * 1024  # bytes of all header lines
_FIELD = re.compile(rb"[!-9;-~]+:")
_WITHOUT_BODY = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
_LENGTH = re.compile(r"[ \t]*0*([0-9]{1,18})[ \t]*(,[ \t]*0*\1[ \t]*)*")  # RFC 9110 knows no other blanks
_CHUNK_SIZE = re.compile(rb"0*([0-9a-fA-F]{1,15})[ \t]*(;.*)?\r?\n", re.DOTALL)
_MOST_LINE = 64 * 1024  # of a chunk's size and extensions
_IDLE_LIMIT = re.compile(
    r"(?:^|[,;\s])(?:timeout\s*=\s*\"?(?P<seconds>[0-9]+(?:\.[0-9]+)?)|max\s*=\s*\"?0+)\"?(?=\s*(?:[,;]|$))",
    re.ASCII | re.IGNORECASE,
)


class _Source(io.RawIOBase):
    """The bytes from a socket, until *until* by `time.monotonic`."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw = raw
        self._socket = sock
        self.until = math.inf

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        if self.until < math.inf:
            left = self.until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()

    def stop_waiting(self) -> None:
        """Let a read return at once where nothing has arrived."""
        self.until = math.inf
        self._socket.settimeout(0)


class _Lines(io.BufferedReader):
    """The lines of a response; *last* is the line that was read last."""

    last = b""

    def readline(self, size: int | None = -1, /) -> bytes:
        self.last = super().readline(size)
        if re.search(rb"\r(?=[^\n])|\0", self.last):  # some parsers read two lines (RFC 9112, section 2.2)
            raise http.client.HTTPException("a line with a bare CR or a NUL")
        return self.last


class StrictResponse(http.client.HTTPResponse):
    """
    A final response with a status line of HTTP/1 and complete headers.

    Where *head_decides*, a response without a defined end of its body ends with its head.
    """

    head_decides = False

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._source = _Source(self.fp.detach(), sock)
        self.fp = self._lines = _Lines(self._source)
        self._is_interim = False
        self.has_started = False  # a byte of it, or of an interim response, has arrived
        self.has_trailing_bytes = False  # which belong to no response

    def begin(self) -> None:
        """Read the head as http.client does, but for its limit of 100 lines: _MOST_HEAD counts the bytes of all."""
        if self.headers is not None:
            return
        status = HTTPStatus.CONTINUE
        while status == HTTPStatus.CONTINUE:
            version, status, reason = self._read_status()
            lines, is_whole = self._read_head()
        self.code = self.status = status
        self.reason = reason.strip()
        self.version = 10 if version == "HTTP/1.0" else 11
        head = b"".join(lines).decode("latin-1")
        self.headers = self.msg = HeaderParser(_class=http.client.HTTPMessage).parsestr(head)
        self.chunked, self.chunk_left = self.msg.get("Transfer-Encoding", "").strip(" \t").lower() == "chunked", None
        length = None if self.chunked else _LENGTH.fullmatch(self.msg.get("Content-Length", ""))
        self.length = int(length[1]) if length else None
        is_closed_by_end = not (self.chunked or length or self._ends_with_head())
        self.will_close = is_closed_by_end or self._check_close()
        self._find_end()
        if not is_whole:  # what was left out could have said where the body ends
            self.chunked, self.length, self.will_close = False, 0, True
            del self.msg["Content-Length"], self.msg["Transfer-Encoding"]

    def _read_head(self) -> tuple[list[bytes], bool]:
        """
        The header lines up to the empty one, and whether they are all.

        HTTPException where one is no header line, or all take more than _MOST_HEAD. Where the head decides, such lines
        are left out: what they say decides nothing.
        """
        lines: list[bytes] = []
        size, is_whole, begins, may_fold = 0, True, True, False
        while True:
            is_sound = True
            try:
                line = self._lines.readline(_MOST_HEAD)
            except http.client.HTTPException:
                line, is_sound = self._lines.last, False
            if begins and line in (b"\r\n", b"\n"):
                return lines, is_whole
            if len(line) < _MOST_HEAD and not line.endswith(b"\n"):
                raise http.client.IncompleteRead(b"")
            size += len(line)
            is_field = _FIELD.match(line) or (may_fold and line.startswith((b" ", b"\t")))
            may_fold = bool(is_sound and begins and is_field and size <= _MOST_HEAD)
            if may_fold:
                lines.append(line)
            elif self.head_decides:
                is_whole = False
            else:
                raise http.client.HTTPException("an invalid header line, or a head over 64 KiB")
            begins = line.endswith(b"\n")

    def stop_after(self, seconds: float) -> None:
        """Let every read from here on raise TimeoutError after so many *seconds*."""
        self._source.until = time.monotonic() + seconds

    def _find_end(self) -> None:
        """Find where the body ends; HTTPException if the headers do not define it (RFC 9112, section 6.3)."""
        length, coding = self.getheader("Content-Length"), self.getheader("Transfer-Encoding")
        flaw = _flaw(length, coding)
        if self._ends_with_head() or (flaw and self.head_decides):
            self.chunked, self.length = False, 0
            # With 204 no length is legal; with HEAD and 304 it is that of the body that GET would get (RFC 9110).
            has_odd_length = self.status == HTTPStatus.NO_CONTENT and (length or "0").strip("0")
            if flaw or coding is not None or has_odd_length:
                self.will_close = True  # a body that is sent all the same would be read as the next response
            if length is not None and not _LENGTH.fullmatch(length):
                del self.msg["Content-Length"]  # urllib3 would reject the response for it
        elif flaw:
            raise http.client.HTTPException(flaw)

    def _ends_with_head(self) -> bool:
        is_head = self._method == "HEAD"  # type: ignore[attr-defined]
        return is_head or self.status < HTTPStatus.OK or self.status in _WITHOUT_BODY

    def _read_status(self) -> tuple[str, int, str]:
        """The status line of the final response; http.client skips only 100 (RFC 9110, section 15.2)."""
        if self._lines.peek(1):
            self.has_started = True
        elif self._is_interim:
            raise http.client.BadStatusLine("an interim response, and no final one")
        version, status, reason = super()._read_status()  # type: ignore[misc]
        if not re.match(
            rb"HTTP/1\.[0-9] [0-9]{3}(?![^ \r\n])", self._lines.last
        ):  # http.client would accept +200 and 2_00
            raise http.client.BadStatusLine(repr(self._lines.last[:100]))
        self._is_interim = HTTPStatus.SWITCHING_PROTOCOLS < status < HTTPStatus.OK
        return version, HTTPStatus.CONTINUE if self._is_interim else status, reason

    def _get_chunk_left(self) -> int | None:
        """Bytes left in this chunk, None after the last; http.client reads sizes like -5 and 0_2, and any line end."""
        if not self.chunk_left:
            if self.chunk_left == 0 and self._line(2) not in (b"\r\n", b"\n"):
                raise http.client.HTTPException("a chunk that is longer than its size")
            size = _CHUNK_SIZE.fullmatch(self._line(_MOST_LINE))
            if size is None:
                raise http.client.HTTPException("an invalid chunk size")
            self.chunk_left = int(size[1], 16) or None
            if self.chunk_left is None:
                with suppress(http.client.IncompleteRead):  # the body is whole all the same
                    self._read_head()
                self._close_conn()
        return self.chunk_left

    def _line(self, most: int) -> bytes:
        """The next line, or its first bytes; IncompleteRead where the connection ends in it."""
        line = self._lines.readline(most)
        if len(line) < most and not line.endswith(b"\n"):
            raise http.client.IncompleteRead(b"")
        return line

    def _close_conn(self) -> None:
        """Check, without waiting, whether bytes follow the response: they would be lost with its buffer."""
        if not self.will_close:
            with suppress(OSError):  # TLS raises if nothing has arrived
                self._source.stop_waiting()
                self.has_trailing_bytes = bool(self._lines.peek(1))
        super()._close_conn()  # type: ignore[misc]


def _flaw(length: str | None, coding: str | None) -> str | None:
    """Why this `Content-Length` and `Transfer-Encoding` do not define where the body ends; None if they do."""
    if coding is not None and coding.strip(" \t").lower() != "chunked":
        return "a transfer coding that was not requested"
    if coding is not None and length is not None:
        return "a content length beside a transfer coding"
    return None if length is None or _LENGTH.fullmatch(length) else "a content length that is not a number"


def idle_limit(keep_alive: str | None) -> float:
    """
    Seconds after which the server closes an idle connection: the smallest that its `Keep-Alive` names.

    Infinity without a readable value; 0 if the server accepts no further request.
    """
    found = _IDLE_LIMIT.finditer(keep_alive or "")
    return min((float(limit["seconds"] or 0) for limit in found), default=math.inf)
