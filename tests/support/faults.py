"""Every way in which a downstream can fail, what the relay calls it, and whether it tries again."""

from __future__ import annotations

import gzip
import socket
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from support.raw_downstream import (
    OK,
    RawDownstream,
    hears,
    says,
    says_and_resets,
    says_and_stays,
    shakes_hands,
    trickles,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.local_ca import Authority
    from support.raw_downstream import Behaviour

Retried = Literal["never", "if idempotent", "always", "no need"]


@dataclass(frozen=True)
class Fault:
    """
    What a downstream does, in words and in *behaviour*; None: it does not listen.

    Or it shows a certificate for *certificate*, with the *flaw* that it has.
    """

    name: str
    reason: str
    retried: Retried
    behaviour: Behaviour | None = None
    host: str = "127.0.0.1"
    certificate: str | None = None
    flaw: dict[str, bool] = field(default_factory=dict)
    is_https: bool = False
    timeout: str = "5s"

    def attempts(self, *, idempotent: bool) -> int:
        """How many there are of two that the call allows."""
        return 2 if self.retried == "always" or (self.retried == "if idempotent" and idempotent) else 1

    @contextmanager
    def served(self, authority: Authority) -> Iterator[str]:
        """The URL at which it happens."""
        behaviour, scheme = self.behaviour, "https" if self.is_https else "http"
        if self.certificate is not None:
            behaviour = shakes_hands(authority.server(self.certificate, **self.flaw))
        if behaviour is None:
            with socket.create_server(("127.0.0.1", 0)) as closed:
                port = closed.getsockname()[1]
            yield f"{scheme}://{self.host}:{port}/"
            return
        with RawDownstream(behaviour, reads=not self.is_https) as downstream:
            yield f"{scheme}://{self.host}:{downstream.port}/"


_CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
_EMPTY = b"Connection: close\r\nContent-Length: 0\r\n\r\n"
_LONG = b"Content-Length: 1000000\r\n\r\n"
_FIFTY = b"Content-Encoding: " + b", ".join([b"gzip"] * 50) + b"\r\nContent-Length: 4\r\n\r\nnone"
_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
_SMALL_BOMB = gzip.compress(bytes(10_000_000), mtime=0)


def _busy(retry_after: bytes) -> Behaviour:
    return says(b"HTTP/1.1 503 Busy\r\nRetry-After: ", retry_after, b"\r\n", _EMPTY)


FAULTS = [
    Fault("no server listens", "connect_failed", "always"),
    Fault("the host name is unknown", "dns_failed", "always", host="nowhere.example"),
    Fault("the host name has no address", "connect_failed", "always", host="empty.example"),
    Fault("the name server is silent", "dns_failed", "always", host="slow.example", timeout="0.3s"),
    Fault("the certificate is self-signed", "tls_failed", "never", is_https=True,
          certificate="127.0.0.1", flaw={"is_self_signed": True}),
    Fault("the certificate is another host's", "tls_failed", "never", is_https=True, certificate="127.0.0.2"),
    Fault("the certificate has expired", "tls_failed", "never", is_https=True,
          certificate="127.0.0.1", flaw={"is_expired": True}),
    Fault("TLS: closed in the handshake", "connect_failed", "always", hears(says()), is_https=True),
    Fault("TLS: reset in the handshake", "connect_failed", "always", hears(says_and_resets()), is_https=True),
    Fault("TLS: the handshake hangs", "connect_failed", "always", says_and_stays(), is_https=True, timeout="0.3s"),
    Fault("TLS: the server speaks SSH", "connect_failed", "always", hears(says(b"SSH-2.0-x\r\n")), is_https=True),
    Fault("never responds", "timeout", "if idempotent", says_and_stays(), timeout="0.3s"),
    Fault("trickles its headers", "timeout", "if idempotent", trickles(OK, b"X-A: 1\r\n", 0.01), timeout="0.3s"),
    Fault("trickles its body", "timeout", "if idempotent", trickles(OK + _LONG, b"x", 0.01), timeout="0.3s"),
    Fault("trickles chunks", "timeout", "if idempotent", trickles(OK + _CHUNKED, b"1\r\nx\r\n", 0.01), timeout="0.3s"),
    Fault("trickles its trailers", "timeout", "if idempotent",
          trickles(OK + _CHUNKED + b"0\r\n", b"X-A: 1\r\n", 0.01), timeout="0.3s"),
    Fault("sends 100 Continue without end", "timeout", "if idempotent",
          trickles(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.001), timeout="0.3s"),
    Fault("never ends its body", "timeout", "if idempotent", trickles(OK + b"\r\n", b"x" * 65_536, 0), timeout="0.3s"),
    Fault("closes without a response", "reset", "if idempotent", says()),
    Fault("resets without a response", "reset", "if idempotent", says_and_resets()),
    Fault("resets in its body", "reset", "if idempotent", says_and_resets(OK, _LONG, b"abc")),
    Fault("ends among its headers", "incomplete_response", "if idempotent", says(OK, b"X-A: 1\r\n")),
    Fault("ends its body early", "incomplete_response", "if idempotent", says(OK, _LONG, b"abc")),
    Fault("ends in a chunk", "incomplete_response", "if idempotent", says(OK, _CHUNKED, b"9\r\nabc")),
    Fault("ends before the last chunk", "incomplete_response", "if idempotent", says(OK, _CHUNKED, b"3\r\nabc\r\n")),
    Fault("sends a chunk without a size", "malformed_response", "never", says(OK, _CHUNKED, b"xyz\r\nabc")),
    Fault("sends a chunk of size -5", "malformed_response", "never",
          says_and_stays(OK, _CHUNKED, b"-5\r\nhello\r\n0\r\n\r\n")),
    Fault("speaks HTTP/0.9", "malformed_response", "never", says(b"<html>hello</html>")),
    Fault("sends binary data", "malformed_response", "never", says(b"\x00\xff\x15\x03" * 40_000)),
    Fault("sends a header line of 64 KiB", "malformed_response", "never", says(OK, b"X: ", b"x" * 65_536, b"\r\n\r\n")),
    Fault("sends headers of over 64 KiB", "malformed_response", "never", says(OK, b"X: y\r\n" * 11_000, _EMPTY)),
    Fault("sends a header without a colon", "malformed_response", "never", says(OK, b"X-A\r\n", _EMPTY)),
    Fault("sends a bare CR in a header", "malformed_response", "never", says(OK, b"X-A: 1\rX-B: 2\r\n", _EMPTY)),
    Fault("switches protocols: 101", "malformed_response", "never", says(b"HTTP/1.1 101 Switching\r\n\r\n")),
    Fault("sends only early hints: 103", "malformed_response", "never", says(b"HTTP/1.1 103 Early Hints\r\n\r\n")),
    Fault("responds 099", "malformed_response", "never", says(b"HTTP/1.1 099 Low\r\n", _EMPTY)),
    Fault("responds 999", "malformed_response", "never", says(b"HTTP/1.1 999 High\r\n", _EMPTY)),
    Fault("sends two lengths", "malformed_response", "never",
          says(OK, b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd")),
    Fault("sends a negative length", "malformed_response", "never", says(OK, b"Content-Length: -1\r\n\r\nabc")),
    Fault("sends a length with chunks", "malformed_response", "never",
          says(OK, b"Content-Length: 3\r\n", _CHUNKED, b"3\r\nabc\r\n0\r\n\r\n")),
    Fault("redirects: 302", "redirect", "never", says(b"HTTP/1.1 302 Found\r\nLocation: http://[::1]/\r\n", _EMPTY)),
    Fault("redirects: 307", "redirect", "never", says(b"HTTP/1.1 307 Found\r\nLocation: /\r\n", _EMPTY)),
    Fault("responds 400", "http_400", "never", says(b"HTTP/1.1 400 Bad\r\n", _EMPTY)),
    Fault("responds 500", "http_500", "if idempotent", says(b"HTTP/1.1 500 Oops\r\n", _EMPTY)),
    Fault("responds 503", "http_503", "always", says(b"HTTP/1.1 503 Busy\r\n", _EMPTY)),
    Fault("Retry-After: -1", "http_503", "always", _busy(b"-1")),
    Fault("Retry-After: a past date", "http_503", "always", _busy(b"Mon, 01 Jan 2024 00:00:00 GMT")),
    Fault("Retry-After: not readable", "http_503", "always", _busy(b"soon; \xff")),
    Fault("Retry-After: 31 years", "http_503", "never", _busy(b"999999999")),
    Fault("Retry-After: the year 9999", "http_503", "never", _busy(b"Fri, 31 Dec 9999 23:59:59 GMT")),
    Fault("is a private address, not allowed", "denied", "never", says(OK, _EMPTY), host="strict.example"),
    Fault("gets no ID token", "auth_unavailable", "always", says(), host="token.example", is_https=True),
]  # fmt: skip

# On a connection that answered another call before: nothing of this one may have been read.
STALE = ("closes a kept connection unread", "stale_connection", "if idempotent")

GOOD = {
    "closes a body of unknown length": (says(OK, b"\r\n", b"half"), b"half"),
    "sends early hints, then 200": (says(_HINTS, _HINTS, OK, b"Content-Length: 2\r\n\r\n", b"ok"), b"ok"),
    "encodes fifty times": (says(OK, _FIFTY), b"none"),
    "sends a gzip bomb": (says(OK, b"Content-Encoding: gzip\r\n\r\n", _SMALL_BOMB), _SMALL_BOMB),
    "sends broken JSON": (says(OK, b"Content-Type: application/json\r\n\r\n", b'{"a": NaN'), b'{"a": NaN'),
    "sends invalid UTF-8": (says(OK, b"Content-Type: application/json\r\n\r\n", b'"\xff\xfe"'), b'"\xff\xfe"'),
    "sends a BOM": (says(OK, b"Content-Type: application/json\r\n\r\n", b"\xef\xbb\xbf{}"), b"\xef\xbb\xbf{}"),
    "nests 30,000 deep": (says(OK, b"Content-Type: application/json\r\n\r\n", b"[" * 30_000), b"[" * 30_000),
    "sends NUL and a huge number": (says(OK, b"\r\n", b'"\\u0000\x00"' + b"9" * 5000), b'"\\u0000\x00"' + b"9" * 5000),
}
