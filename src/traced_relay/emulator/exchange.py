"""
One HTTP/1.1 exchange over a socket: bytes out, the status and the end of the body back.

Its law: it never waits by itself for anything but the socket; whoever wants it to end shuts the socket down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import h11

if TYPE_CHECKING:
    import socket

_CHUNK = 65536


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
    http = h11.Connection(h11.CLIENT)
    # The request has its own bytes; h11 only has to know what kind of answer it gets.
    http.send(h11.Request(method=method, target="/", headers=[("Host", "worker")]))
    http.send(h11.EndOfMessage())
    reply = Reply(0, None, False)
    try:
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(connection.recv(_CHUNK))
            elif isinstance(event, h11.Response):
                asked = dict(event.headers).get(b"retry-after")
                reply = Reply(event.status_code, None if asked is None else asked.decode("latin-1"), False)
            elif isinstance(event, h11.EndOfMessage):
                is_open = http.their_state is h11.DONE and http.trailing_data == (b"", False)
                return reply._replace(is_reusable=is_open)
    except h11.RemoteProtocolError as exc:
        raise BrokenExchange("not HTTP") from exc
