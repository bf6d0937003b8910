"""
One HTTP/1.1 exchange over a socket: bytes out, the status and the end of the body back.

Its law: it never waits by itself for anything but the socket; whoever wants it to end shuts the socket down.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import socket

_CHUNK = 65536
_LONGEST_HEAD = 256 * 1024
_LONGEST_LINE = 4096
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")


class BrokenExchange(Exception):
    """The connection ended, or what came was not HTTP; nobody can say what the worker did."""


class Reply(NamedTuple):
    """What a dispatch is judged by; the body was read and dropped."""

    status: int
    retry_after: str | None
    is_reusable: bool


def exchange(connection: socket.socket, request: bytes, method: str) -> Reply:
    """Send *request*, read the whole answer."""
    connection.sendall(request)
    incoming = _Incoming(connection)
    while True:
        status, headers = _parse_head(incoming.read_head())
        if status >= 200:
            break  # before that, only word of an answer to come
    is_reusable = headers.get(b"connection", b"").lower() != b"close"
    if method != "HEAD" and status not in (204, 304):
        is_reusable = _skip_body(incoming, headers) and is_reusable
    retry_after = headers[b"retry-after"].decode("latin-1") if b"retry-after" in headers else None
    return Reply(status, retry_after, is_reusable and incoming.is_drained)


class _Incoming:
    """What the worker sends, as far as it was not consumed."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""

    @property
    def is_drained(self) -> bool:
        return not self._buffer

    def read_head(self) -> bytes:
        return self._read_to(b"\r\n\r\n", _LONGEST_HEAD)

    def read_line(self) -> bytes:
        return self._read_to(b"\r\n", _LONGEST_LINE)

    def skip(self, size: int) -> None:
        while size > len(self._buffer):
            size -= len(self._buffer)
            self._buffer = b""
            self._receive()
        self._buffer = self._buffer[size:]

    def skip_to_end(self) -> None:
        self._buffer = b""
        while self._connection.recv(_CHUNK):
            pass

    def _read_to(self, end: bytes, longest: int) -> bytes:
        while end not in self._buffer:
            if len(self._buffer) > longest:
                raise BrokenExchange("too long")
            self._receive()
        found, _, self._buffer = self._buffer.partition(end)
        return found

    def _receive(self) -> None:
        received = self._connection.recv(_CHUNK)
        if not received:
            raise BrokenExchange("closed")
        self._buffer += received


def _parse_head(head: bytes) -> tuple[int, dict[bytes, bytes]]:
    first, *lines = head.split(b"\r\n")
    version, _, rest = first.partition(b" ")
    code = rest[:3]
    if not version.startswith(b"HTTP/1.") or not code.isdigit() or code < b"100":
        raise BrokenExchange("not HTTP")
    headers: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon:
            raise BrokenExchange("not HTTP")
        headers[name.lower()] = value.strip()
    if version == b"HTTP/1.0":
        headers[b"connection"] = b"close"
    return int(code), headers


def _skip_body(incoming: _Incoming, headers: dict[bytes, bytes]) -> bool:
    """Read up to the end of the body; whether the connection goes on after it."""
    if headers.get(b"transfer-encoding", b"").lower().endswith(b"chunked"):
        _skip_chunks(incoming)
        return True
    length = headers.get(b"content-length")
    if length is None:
        incoming.skip_to_end()
        return False
    if not _SIZE.fullmatch(length) or not length.isdigit():
        raise BrokenExchange("not HTTP")
    incoming.skip(int(length))
    return True


def _skip_chunks(incoming: _Incoming) -> None:
    while True:
        digits = incoming.read_line().partition(b";")[0].strip()
        if not _SIZE.fullmatch(digits):
            raise BrokenExchange("not HTTP")
        size = int(digits, 16)
        if size == 0:
            break
        incoming.skip(size)
        incoming.read_line()
    while incoming.read_line():
        pass  # trailers
