"""A WSGI application's response, or a problem of the server's own, as the bytes that are sent."""

from __future__ import annotations

import json
import re
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from traced_relay.api import problems
from traced_relay.runtime.clock import SystemClock

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_BODILESS = ("204 ", "304 ")
_clock = SystemClock()


def of_application(wsgi: WSGIApplication, environ: WSGIEnvironment, *, keeps: bool) -> bytes:
    """The whole response of *wsgi*, with its length; the connection is kept if *keeps*."""
    started: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], _: Any = None) -> Any:
        started[:] = [status, headers]

    chunks = wsgi(environ, start_response)
    try:
        body = b"".join(chunks)
    finally:
        if close := getattr(chunks, "close", None):
            close()
    status, headers = started
    lines = [f"HTTP/1.1 {status}", *[f"{name}: {value}" for name, value in headers]]
    if not status.startswith(_BODILESS) and not any(name.lower() == "content-length" for name, _ in headers):
        lines.append(f"Content-Length: {len(body)}")
    if _CONTROL.search("".join(lines)):
        raise ValueError("a header of the response has a control character")
    lines.append(f"Date: {_date(int(_clock.now()))}")
    lines.append("Connection: keep-alive\r\n\r\n" if keeps else "Connection: close\r\n\r\n")
    head = "\r\n".join(lines).encode("latin-1")
    return head if environ["REQUEST_METHOD"] == "HEAD" else head + body


def problem(status: int, detail: str) -> bytes:
    document = json.dumps(problems.document_of(status, detail)).encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nConnection: close\r\n"
        f"Content-Type: application/problem+json\r\nContent-Length: {len(document)}\r\n\r\n"
    )
    return head.encode() + document


@lru_cache(maxsize=1)
def _date(now: int) -> str:
    return formatdate(now, usegmt=True)
