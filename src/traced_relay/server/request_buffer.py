"""Whether a request has arrived completely. Checks only its framing; `request` reads it."""

from __future__ import annotations

import re
from typing import Literal

from traced_relay.api.limits import MAX_DISPATCH, MAX_REQUEST

MAX_HEAD = 128 * 1024  # a task's own headers take up to 80 kB
_MAX_LINE = 8 * 1024
_BLANK = b"\r\n\r\n"
_DISPATCH = re.compile(rb"POST (?:[Hh][Tt][Tt][Pp][Ss]?://[^/?# ]+)?/dispatch ")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*0*([0-9]{1,18})[ \t]*\r\n")  # in a lower-case head
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*\r\n")
_EXPECTING = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*\r\n")
_SIZE = re.compile(rb"[0-9a-fA-F]{1,8}(?=[;\r \t])")

Stage = Literal["head", "head_too_long", "body", "complete", "rejectable"]


class RequestBuffer:
    """
    The bytes of one request as they arrive.

    Its stage is `complete` after the last byte, and `rejectable` once its framing is invalid or its body too large.
    """

    def __init__(self) -> None:
        self.stage: Stage = "head"
        self.expects_continue = False
        self._bytes = bytearray()
        self.limit = MAX_REQUEST
        self._end: int | None = None  # of the request, once it is known
        self._chunk = 0  # offset of the first incomplete chunk
        self._body_bytes = 0  # in the chunks before it

    def __len__(self) -> int:
        return len(self._bytes)

    def take(self) -> bytes:
        """Return and drop all bytes."""
        taken, self._bytes = bytes(self._bytes), bytearray()
        return taken

    def take_request(self) -> tuple[bytes, bytes]:
        """Return and drop all bytes: the request, and what follows it."""
        end, taken = self._end if self.stage == "complete" else None, self.take()
        return taken[:end], b"" if end is None else taken[end:]

    def add(self, received: bytes) -> Stage:
        before = len(self._bytes)
        self._bytes += received
        if self.stage == "head":
            self.stage = self._after_head(max(0, before - len(_BLANK)))
        if self.stage == "body":
            if self._end is None:
                self.stage = self._after_chunks()
            elif len(self) >= self._end:
                self.stage = "complete"
        if self.stage == "body" and len(self) > 2 * self.limit:  # mostly chunk framing
            self.stage = "rejectable"
        return self.stage

    def _after_head(self, since: int) -> Stage:
        end = self._bytes.find(_BLANK, since)
        if end < 0:
            return "head_too_long" if len(self) > MAX_HEAD else "head"
        head, self._chunk = self._bytes[: end + 2].lower(), end + len(_BLANK)
        if _DISPATCH.match(self._bytes):
            self.limit = MAX_DISPATCH
        self.expects_continue = _EXPECTING.search(head) is not None
        if b"\r\ntransfer-encoding:" in head:
            return "body" if _CHUNKED.search(head) else "rejectable"
        length_header = _LENGTH.search(head)
        if head.count(b"\r\ncontent-length:") != (length_header is not None):
            return "rejectable"  # repeated or no valid number: the end of the body is unknown
        length = int(length_header[1]) if length_header else 0
        self._end = self._chunk + length
        return "rejectable" if length > self.limit else "body"

    def _after_chunks(self) -> Stage:
        while (line_end := self._bytes.find(b"\r\n", self._chunk)) >= 0:
            size = _SIZE.match(self._bytes, self._chunk)
            if size is None:
                return "rejectable"
            length = int(size[0], 16)
            if length == 0:
                return self._after_trailers(line_end)
            begin = line_end + 2
            if self._body_bytes + min(length, len(self) - begin) >= self.limit:
                return "rejectable"
            if len(self) < begin + length + 2:
                return "body"
            self._chunk, self._body_bytes = begin + length + 2, self._body_bytes + length
        return self._unless_too_long()

    def _after_trailers(self, begin: int) -> Stage:
        end = self._bytes.find(_BLANK, begin)
        if end < 0:
            return self._unless_too_long()
        self._end = end + len(_BLANK)
        return "complete"

    def _unless_too_long(self) -> Stage:
        """Chunk size lines and trailers have a limit."""
        return "rejectable" if len(self) - self._chunk > _MAX_LINE else "body"
