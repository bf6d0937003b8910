"""The bytes of one request in, its WSGI environment out; Refused if it violates HTTP or exceeds a limit."""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from http import HTTPStatus
from io import BytesIO, RawIOBase
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import httptools

from traced_relay.api.request_host import asked_host

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_MAX_LINE = 4094
_MAX_FIELD = 8190
_MAX_FIELDS = 100
_LINE = re.compile(rb"(?:\r\n)?([A-Z-]{3,20}) ([\x21-\x7e]+) HTTP/1\.([01])\r\n")
_UPGRADE = re.compile(rb"\r\nupgrade(?=:)", re.IGNORECASE)
_ORIGIN = re.compile(r"[A-Za-z]+://[^/?#]*")
_SINGLE = {"HTTP_HOST": "Host", "CONTENT_TYPE": "Content-Type", "HTTP_TRANSFER_ENCODING": "Transfer-Encoding"}
_CODINGS = {"chunked", "identity", "gzip", "deflate", "compress"}
_NOT_IN_TRAILERS = {b"host", b"content-length", b"transfer-encoding", b"trailer", b"authorization", b"te"}
_LONGEST_REMEMBERED = 64  # bytes of a name
_DROPPED = "dropped"
_BASE: dict[str, Any] = {
    "SCRIPT_NAME": "",
    "SERVER_SOFTWARE": "traced-relay",
    "wsgi.version": (1, 0),
    "wsgi.url_scheme": "http",
    "wsgi.errors": sys.stderr,
    "wsgi.multithread": True,
    "wsgi.multiprocess": False,
    "wsgi.run_once": False,
    "wsgi.input_terminated": True,
}


class Refused(Exception):
    """The request gets no further; *detail* names the rule that it breaks, and quotes nothing."""

    def __init__(self, detail: str, status: int = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status


def read(sent: bytes, *, limit: int | None = None) -> tuple[WSGIEnvironment, bool]:
    """
    The environment of one request, without what only its connection knows, and whether another may follow it.

    *sent* ends where the buffer found the request's end, and the parser must find it there too: no byte is read in two
    ways. With a *limit* the end was not found, since the framing is invalid or the body at least that long.
    """
    line = _LINE.match(sent)
    if line is None:
        raise Refused("the request line must be METHOD TARGET HTTP/1.1 with single spaces between")
    if len(line[0]) > _MAX_LINE:
        raise Refused("the request line is too long", HTTPStatus.REQUEST_URI_TOO_LONG)
    method, target, version = (part.decode() for part in line.groups())
    message = _Message()
    flaw = message.feed(_without_upgrade(sent))
    environ, body = message.environ, b"".join(message.body)
    _check_fields(message, flaw, version)
    _set_host(environ, method, target, version)
    origin = _ORIGIN.match(target)  # of an absolute target
    path, _, query = target[origin.end() if origin else 0 :].partition("#")[0].partition("?")
    environ["REQUEST_METHOD"] = method
    environ["RAW_URI"] = target
    environ["PATH_INFO"] = unquote_to_bytes(path).decode("latin-1") or "/"
    environ["QUERY_STRING"] = query
    environ["SERVER_PROTOCOL"] = f"HTTP/1.{version}"
    is_whole = limit is None and flaw is None and message.has_ended
    is_too_long = limit is not None and len(body) >= limit
    environ["wsgi.input"] = BytesIO(body) if is_whole or is_too_long else _Broken()
    return environ, is_whole and _keeps_alive(environ.get("HTTP_CONNECTION", ""), version)


class _Message:
    """What httptools finds: the header fields as WSGI names them, and the body."""

    def __init__(self) -> None:
        self.environ: WSGIEnvironment = _BASE.copy()
        self.body: list[bytes] = []
        self.count = self.longest = 0
        self.repeated = ""
        self.has_head = self.has_ended = False
        self._flaw: str | None = None

    def feed(self, sent: bytes) -> str | None:
        """Parse *sent*; the rule that it breaks, in the parser's words, which quote nothing."""
        try:
            httptools.HttpRequestParser(self).feed_data(sent)
        except httptools.HttpParserError as exc:
            return str(exc)
        except httptools.HttpParserUpgrade:  # the parser leaves the rest to another protocol
            return "CONNECT is not supported"
        return self._flaw

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.has_head:
            if name.lower() in _NOT_IN_TRAILERS:
                self._flaw = "a trailer must not have this name"
            return
        self.count += 1
        self.longest = max(self.longest, len(name) + len(value) + 4)
        key = (_key_of if len(name) <= _LONGEST_REMEMBERED else _key_of.__wrapped__)(name)
        text = value.decode("latin-1").strip(" \t")
        if key not in self.environ:
            self.environ[key] = text
        elif key in _SINGLE:
            self.repeated = _SINGLE[key]
        else:
            self.environ[key] += f",{text}"

    def on_headers_complete(self) -> None:
        self.has_head = True
        self.environ.pop(_DROPPED, None)

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_begin(self) -> None:
        if self.has_head:
            self._flaw = "bytes follow its end"

    def on_message_complete(self) -> None:
        self.has_ended = True


class _Broken(RawIOBase):
    """A body that cannot be read."""

    def read(self, _: int = -1) -> bytes:
        raise ValueError("the body is malformed or incomplete")


@lru_cache(maxsize=1024)
def _key_of(name: bytes) -> str:
    """The WSGI name; with an underscore a header could pass for another one, so it is dropped."""
    upper = name.decode("latin-1").upper().replace("-", "_")
    if b"_" in name:
        return _DROPPED
    return upper if upper in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{upper}"


def _without_upgrade(sent: bytes) -> bytes:
    """Rename Upgrade fields, which a server may ignore (RFC 9110, section 7.8) and the parser does not."""
    if _UPGRADE.search(sent) is None:
        return sent
    head, blank, rest = sent.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nX-Upgrade", head) + blank + rest


def _check_fields(message: _Message, flaw: str | None, version: str) -> None:
    if message.longest > _MAX_FIELD or message.count > _MAX_FIELDS:
        detail = f"the request has a header over {_MAX_FIELD} bytes, or more than {_MAX_FIELDS} headers"
        raise Refused(detail, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    if message.repeated:
        raise Refused(f"{message.repeated}: must be given only once")
    environ = message.environ
    codings = environ.get("HTTP_TRANSFER_ENCODING")
    if codings is not None and message.has_head:
        if not {coding.strip(" \t").lower() for coding in codings.split(",")} <= _CODINGS:
            raise Refused("Transfer-Encoding: must be chunked", HTTPStatus.NOT_IMPLEMENTED)
        if version == "0" or "CONTENT_LENGTH" in environ:
            raise Refused("Transfer-Encoding: must not be in HTTP/1.0, nor with Content-Length")
        if codings.lower().count("chunked") != 1 or not codings.lower().endswith("chunked"):
            raise Refused("Transfer-Encoding: must end with chunked, given once")
    if not message.has_head:
        raise Refused(f"the request violates HTTP: {flaw or 'its head does not end'}")
    if environ.get("HTTP_EXPECT", "100-continue").lower() != "100-continue":
        raise Refused("Expect: must be 100-continue", HTTPStatus.EXPECTATION_FAILED)


def _set_host(environ: WSGIEnvironment, method: str, target: str, version: str) -> None:
    """Give the application at most one host, or refuse the request."""
    given = environ.get("HTTP_HOST")
    if target == "*" and method != "OPTIONS":
        raise Refused("the target * is only for OPTIONS")
    try:
        host = asked_host(target, [] if given is None else [given], (1, int(version)))
    except ValueError as exc:
        raise Refused(f"Host: {exc}") from None
    if host is not None:
        environ["HTTP_HOST"] = host


def _keeps_alive(connection: str, version: str) -> bool:
    options = [option.strip(" \t").lower() for option in connection.split(",")]
    return "close" not in options and (version == "1" or "keep-alive" in options)
