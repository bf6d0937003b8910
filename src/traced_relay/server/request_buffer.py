"""When a request is there as a whole. It is found out from its bytes; what they say is for the server's own parser."""

from __future__ import annotations

import re
from typing import Literal

from traced_relay.api.limits import MAX_DISPATCH, MAX_REQUEST

MOST_HEAD = 128 * 1024  # a task's own headers take up to 80 kB
_MOST_LINE = 8 * 1024
_BLANK = b"\r\n\r\n"
_DISPATCH = re.compile(rb"POST (?:[Hh][Tt][Tt][Pp][Ss]?://[^/?# ]+)?/dispatch ")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*0*([0-9]{1,18})[ \t]*\r\n")  # of a head in small letters
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*\r\n")
_EXPECTING = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*\r\n")
_SIZE = re.compile(rb"[0-9a-fA-F]{1,8}(?=[;\r \t])")

Stage = Literal["head", "too_long_a_head", "body", "whole", "part"]


class RequestBuffer:
    """
    The bytes of one request as they come.

    It is `whole` once its last byte is there. It is a `part`, of which no more
    is waited for, where that is enough to refuse it: what is announced is too
    large, or makes no sense.
    """

    def __init__(self) -> None:
        self.stage: Stage = "head"
        self.expects_continue = False
        self._bytes = bytearray()
        self._most = MAX_REQUEST
        self._end: int | None = None  # of the body, where its length is announced
        self._chunk = 0  # where the first chunk begins that is not there as a whole
        self._unpacked = 0  # bytes in the chunks before that

    def __len__(self) -> int:
        return len(self._bytes)

    def taken(self) -> bytes:
        """All that has come; nothing is kept."""
        taken, self._bytes = bytes(self._bytes), bytearray()
        return taken

    def add(self, got: bytes) -> Stage:
        seen = len(self._bytes)
        self._bytes += got
        if self.stage == "head":
            self.stage = self._after_head(max(0, seen - len(_BLANK)))
        if self.stage == "body":
            self.stage = self._after_chunks() if self._end is None else self._after_length(self._end)
        if self.stage == "body" and len(self) > 2 * self._most:  # it is hardly more than the frames of chunks
            self.stage = "part"
        return self.stage

    def _after_head(self, since: int) -> Stage:
        end = self._bytes.find(_BLANK, since)
        if end < 0:
            return "too_long_a_head" if len(self) > MOST_HEAD else "head"
        head, self._chunk = self._bytes[: end + 2].lower(), end + len(_BLANK)
        if _DISPATCH.match(self._bytes):
            self._most = MAX_DISPATCH
        self.expects_continue = _EXPECTING.search(head) is not None
        if b"\r\ntransfer-encoding:" in head:
            return "body" if _CHUNKED.search(head) else "part"
        announced = _LENGTH.search(head)
        if head.count(b"\r\ncontent-length:") != (announced is not None):
            return "part"  # twice, or no number that a body could have: nobody may read on behind it
        length = int(announced[1]) if announced else 0
        self._end = self._chunk + length
        return "part" if length > self._most else "body"

    def _after_length(self, end: int) -> Stage:
        return "whole" if len(self) >= end else "body"

    def _after_chunks(self) -> Stage:
        while (line_end := self._bytes.find(b"\r\n", self._chunk)) >= 0:
            size = _SIZE.match(self._bytes, self._chunk)
            if size is None:
                return "part"
            length = int(size[0], 16)
            if length == 0:
                return self._after_trailers(line_end)
            begin = line_end + 2
            if self._unpacked + min(length, len(self) - begin) >= self._most:
                return "part"
            if len(self) < begin + length + 2:
                return "body"
            self._chunk, self._unpacked = begin + length + 2, self._unpacked + length
        return self._unless_long()

    def _after_trailers(self, begin: int) -> Stage:
        return "whole" if self._bytes.find(_BLANK, begin) >= 0 else self._unless_long()

    def _unless_long(self) -> Stage:
        """The line of a chunk's size is short, and so are trailers."""
        return "part" if len(self) - self._chunk > _MOST_LINE else "body"
