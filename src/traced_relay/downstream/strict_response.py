"""
HTTP responses read more strictly than http.client does, so that no incomplete response passes for a complete one.

A malformed response raises an HTTPException before its headers are read.
"""

from __future__ import annotations

import http.client
import math
import re
import ssl
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

_MOST_HEAD = 64 * 1024  # bytes of all header lines
_MOST_LINE = 64 * 1024  # bytes of a status line, or of a chunk's size and extensions
_RECEIVED = 4 * 1024  # bytes at once of a head; waiting calls hold as much memory
_CHUNK = 64 * 1024  # bytes at once of a body
_STATUS = re.compile(rb"(HTTP/1\.[0-9]) ([1-9][0-9]{2})(?![^ \r\n])")  # http.client would accept +200 and 2_00
_FIELD = re.compile(rb"([!-9;-~]+):[ \t]*([^\r\n\0]*)\r?\n")
_FOLD = re.compile(r"(?:(?<![ \t])[ \t]+)?\r\n[ \t]+")  # obsolete, and read as a space (RFC 9112, section 5.2)
_SPLITS_LINE = re.compile(rb"\r(?=[^\n])|\0")  # some parsers read two lines (RFC 9112, section 2.2)
_HTTP_1_0, _HTTP_1_1 = 10, 11  # as http.client numbers them
_WITHOUT_BODY = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
_LENGTH = re.compile(r"[ \t]*0*([0-9]{1,18})[ \t]*(,[ \t]*0*\1[ \t]*)*")  # RFC 9110 knows no other blanks
_CHUNK_SIZE = re.compile(rb"0*([0-9a-fA-F]{1,15})[ \t]*(;.*)?\r?\n", re.DOTALL)
_IDLE_LIMIT = re.compile(
    r"(?:^|[,;\s])(?:timeout\s*=\s*\"?(?P<seconds>[0-9]+(?:\.[0-9]+)?)|max\s*=\s*\"?0+)\"?(?=\s*(?:[,;]|$))",
    re.ASCII | re.IGNORECASE,
)


class StrictResponse:
    """
    A final response with a status line of HTTP/1 and complete headers.

    Where *head_decides*, a response without a defined end of its body ends with its head. Names of headers are in lower
    case; the values of one that is repeated are joined.
    """

    def __init__(self, sock: socket.socket, method: str, *, head_decides: bool = False) -> None:
        self._socket = sock
        self._method = method
        self._head_decides = head_decides
        self._buffer, self._at = b"", 0  # what has arrived, and how much of it is read
        self._until = math.inf
        self.has_started = False  # a byte of it, or of an interim response, has arrived
        self.is_complete = False
        self.version, self.status = 0, 0
        self.headers: dict[str, str] = {}
        self._is_chunked = False
        self._left: int | None = None  # bytes of the body, or of the chunk; None: the end of the connection, or a size
        self._will_close = False

    def read_head(self) -> None:
        """Read the heads of interim responses, and the one of the final response."""
        is_interim, self.status = False, HTTPStatus.CONTINUE
        while is_interim or self.status == HTTPStatus.CONTINUE:
            self.version, self.status = self._read_status(after_interim=is_interim)
            fields, is_whole = self._read_fields()
            is_interim = HTTPStatus.SWITCHING_PROTOCOLS < self.status < HTTPStatus.OK
        self.headers = _joined(fields)
        self._find_end()
        if not is_whole:  # what was left out could have said where the body ends
            self._is_chunked, self._left, self._will_close = False, 0, True
            self.headers.pop("content-length", None)
            self.headers.pop("transfer-encoding", None)
        self.headers = {name: _FOLD.sub(" ", value) if "\n" in value else value for name, value in self.headers.items()}
        self.is_complete = self._left == 0 and not self._is_chunked

    def read(self) -> bytes:
        """The next bytes of the body, neither decoded nor parsed; none after its end."""
        if self.is_complete:
            return b""
        if self._is_chunked and not self._left:
            self._left = self._next_chunk_size()
            if not self._left:
                try:
                    self._read_fields()  # the trailers
                except http.client.IncompleteRead:  # the body is whole all the same
                    self._will_close = True
                self.is_complete = True
                return b""
        if self._at == len(self._buffer) and not self._receive(_CHUNK):
            if self._left is not None:
                raise http.client.IncompleteRead(b"")
            self.is_complete = True
        start = self._at
        self._at = len(self._buffer) if self._left is None else min(len(self._buffer), start + self._left)
        if self._left is not None:
            self._left -= self._at - start
            self.is_complete = not self._left and not self._is_chunked
        return self._buffer[start : self._at]

    def stop_after(self, seconds: float) -> None:
        """Let every read from here on raise TimeoutError after so many *seconds*."""
        self._until = time.monotonic() + seconds

    @property
    def keeps_connection(self) -> bool:
        """Whether its connection takes another request: not if it closes, or has bytes that belong to no response."""
        has_bytes = self._at < len(self._buffer) or (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending())
        return self.is_complete and not self._will_close and not has_bytes

    def _read_status(self, *, after_interim: bool) -> tuple[int, int]:
        if self._at == len(self._buffer) and not self._receive(_RECEIVED):
            if after_interim:
                raise http.client.BadStatusLine("an interim response, and no final one")
            raise http.client.RemoteDisconnected("no response")
        self.has_started = True
        line = self._line(_MOST_LINE)
        found = _STATUS.match(line)
        if found is None or _SPLITS_LINE.search(line) or (len(line) == _MOST_LINE and not line.endswith(b"\n")):
            raise http.client.BadStatusLine(repr(line[:100]))
        return _HTTP_1_0 if found[1] == b"HTTP/1.0" else _HTTP_1_1, int(found[2])

    def _read_fields(self) -> tuple[list[tuple[bytes, bytes]], bool]:
        """
        The header lines up to the empty one as names and values, and whether they are all.

        HTTPException where one is no header line, or all take more than _MOST_HEAD. Where the head decides, such lines
        are left out: what they say decides nothing.
        """
        fields: list[tuple[bytes, bytes]] = []
        size, is_whole, begins, may_fold = 0, True, True, False
        while True:
            if begins:
                while (found := _FIELD.match(self._buffer, self._at)) and size + len(found[0]) <= _MOST_HEAD:
                    fields.append((found[1], found[2]))
                    self._at, size, may_fold = found.end(), size + len(found[0]), True
            line = self._line(_MOST_HEAD)
            if begins and line in (b"\r\n", b"\n"):
                return fields, is_whole
            if len(line) < _MOST_HEAD and not line.endswith(b"\n"):
                raise http.client.IncompleteRead(b"")
            size += len(line)
            found = _FIELD.fullmatch(line) if begins and size <= _MOST_HEAD else None
            folds = begins and may_fold and line.startswith((b" ", b"\t")) and not _SPLITS_LINE.search(line)
            if found is not None:
                fields.append((found[1], found[2]))
            elif folds and size <= _MOST_HEAD:
                fields[-1] = fields[-1][0], fields[-1][1] + b"\r\n" + line.rstrip(b"\r\n")
            elif self._head_decides:
                is_whole = False
            else:
                raise http.client.HTTPException("an invalid header line, or a head over 64 KiB")
            may_fold, begins = bool(found or folds), line.endswith(b"\n")

    def _find_end(self) -> None:
        """Find where the body ends; HTTPException if the headers do not define it (RFC 9112, section 6.3)."""
        length, coding = self.headers.get("content-length"), self.headers.get("transfer-encoding")
        flaw = _flaw(length, coding)
        self._will_close = self._closes()
        if self._ends_with_head() or (flaw and self._head_decides):
            self._left = 0
            # With 204 no length is legal; with HEAD and 304 it is that of the body that GET would get (RFC 9110).
            has_odd_length = self.status == HTTPStatus.NO_CONTENT and (length or "0").strip("0")
            if flaw or coding is not None or has_odd_length:
                self._will_close = True  # a body that is sent all the same would be read as the next response
            if not _LENGTH.fullmatch(length or ""):
                self.headers.pop("content-length", None)
        elif flaw:
            raise http.client.HTTPException(flaw)
        elif coding is not None:
            self._is_chunked = True
        elif (found := _LENGTH.fullmatch(length or "")) is not None:
            self._left = int(found[1])
        else:
            self._will_close = True

    def _closes(self) -> bool:
        """Whether the server closes the connection after this response, by its headers."""
        connection = self.headers.get("connection", "").lower()
        is_kept = self.version == _HTTP_1_1 or self.headers.get("keep-alive") or "keep-alive" in connection
        return "close" in connection or not is_kept

    def _ends_with_head(self) -> bool:
        return self._method == "HEAD" or self.status < HTTPStatus.OK or self.status in _WITHOUT_BODY

    def _next_chunk_size(self) -> int:
        """The bytes of the next chunk, 0 for the last; http.client reads sizes like -5 and 0_2, and any line end."""
        if self._left == 0 and self._whole_line(2) not in (b"\r\n", b"\n"):
            raise http.client.HTTPException("a chunk that is longer than its size")
        size = _CHUNK_SIZE.fullmatch(self._whole_line(_MOST_LINE))
        if size is None:
            raise http.client.HTTPException("an invalid chunk size")
        return int(size[1], 16)

    def _whole_line(self, most: int) -> bytes:
        """The next line, or its first bytes; IncompleteRead where the connection ends in it."""
        line = self._line(most)
        if len(line) < most and not line.endswith(b"\n"):
            raise http.client.IncompleteRead(b"")
        if _SPLITS_LINE.search(line):
            raise http.client.HTTPException("a line with a bare CR or a NUL")
        return line

    def _line(self, most: int) -> bytes:
        """The next line, its first *most* bytes, or what came before the connection ended."""
        while not (end := self._buffer.find(b"\n", self._at, self._at + most) + 1):
            if len(self._buffer) - self._at >= most or not self._receive(_RECEIVED):
                end = min(len(self._buffer), self._at + most)
                break
        line, self._at = self._buffer[self._at : end], end
        return line

    def _receive(self, most: int) -> bool:
        """Whether more arrived before the end of the connection; waits for it."""
        if self._until < math.inf:
            left = self._until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
        received = self._socket.recv(most)
        self._buffer, self._at = self._buffer[self._at :] + received, 0
        return bool(received)


def _joined(fields: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """The values by the names in lower case; those of one name are joined (RFC 9110, section 5.3)."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in fields:
        name, value = raw_name.decode().lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


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
