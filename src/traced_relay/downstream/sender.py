"""One exchange with one downstream. A response of any status is data; its absence is a reason."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests
import urllib3.exceptions
from msgspec import Struct
from requests.structures import CaseInsensitiveDict

from traced_relay.downstream.connections import OPENING_TIMEOUT, Adapter, ConnectionSetup, current_setup, origin_of
from traced_relay.errors import DownstreamDenied, IdentityFailed, Unavailable
from traced_relay.formats.durations import ms_between
from traced_relay.tasks import reasons
from traced_relay.tasks.call import split_target
from traced_relay.tasks.retry import AttemptResult, parse_retry_after
from traced_relay.tasks.row import Response
from traced_relay.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from traced_relay.downstream.connections import Origin, Received, Resolve
    from traced_relay.downstream.rules import Downstream
    from traced_relay.runtime.clock import Clock
    from traced_relay.runtime.watchdog import Deadline
    from traced_relay.tasks.call import Call

BODY_KEPT = 64 * 1024
HEADERS_KEPT = 8 * 1024
_USER_AGENT = f"traced-relay/{__version__}"
BODY_TIMEOUT = 1.0  # seconds for a body that is not needed; the connection is kept if the response ends in time


class Timing(Struct, frozen=True):
    """Where an attempt's time went, in milliseconds; None for a part it did not have."""

    token_ms: int | None = None
    connect_ms: int | None = None
    tls_ms: int | None = None
    first_byte_ms: int | None = None
    body_ms: int | None = None


class Exchange(Struct, frozen=True):
    ending: AttemptResult
    timing: Timing
    response: Response | None = None
    response_size: int | None = None
    detail: str | None = None  # why the call was denied, or no credentials could be had, in one sentence

    @classmethod
    def unsent(cls, reason: str, detail: str | None = None, token_ms: int | None = None) -> Exchange:
        """The exchange of a call that was not made, for this *reason*."""
        return cls(AttemptResult(None, reason, was_sent=False), Timing(token_ms), detail=detail)


# Opens the span of a request, and returns what takes its response's head.
ClientSpan = Callable[[requests.PreparedRequest], AbstractContextManager[Callable[[requests.Response], None]]]


def _no_span(_: requests.PreparedRequest) -> AbstractContextManager[Callable[[requests.Response], None]]:
    return nullcontext(lambda _: None)


class Sender:
    """Makes calls over kept connections; no cookies, no redirects, no proxies or passwords from the environment."""

    def __init__(
        self,
        clock: Clock,
        id_token: Callable[[str], str],
        *,
        connections: int = 100,
        tls: ssl.SSLContext | None = None,
        resolve: Resolve = socket.getaddrinfo,
    ) -> None:
        self._clock = clock
        self._id_token = id_token
        self._resolve = resolve
        self._adapter = Adapter(connections, tls)

    def send(
        self,
        call: Call,
        rule: Downstream | None,
        added: Mapping[str, str],
        deadline: Deadline,
        *,
        head_decides: bool = False,
        client_span: ClientSpan = _no_span,
    ) -> Exchange:
        """
        Make the *call* with *added* headers as its *rule* says; without a rule, deny it. The *deadline* may abort it.

        Where *head_decides*, the head is the response; its body may be incomplete or endless.
        """
        if rule is None:
            return Exchange.unsent("denied")
        started, until = self._clock.monotonic(), time.monotonic() + call.timeout
        try:
            authorization = self._authorization(call, rule)
        except IdentityFailed as exc:
            return Exchange.unsent("auth_unavailable", str(exc), ms_between(started, self._clock.monotonic()))
        token_ms = ms_between(started, self._clock.monotonic()) if authorization else None
        until = min(until, time.monotonic() + OPENING_TIMEOUT)
        try:
            text, target = split_target(call.url)
            origin = origin_of(text)
        except (requests.RequestException, ValueError):  # the API accepts this URL and requests does not
            return Exchange.unsent("denied", "the URL cannot be sent", token_ms)
        request = _prepared(call, origin, target, {**authorization, **added})
        setup = ConnectionSetup(
            origin=origin,
            deadline=deadline,
            allow_private=rule.allow_private,
            until=until,
            target=target,
            may_repeat=call.idempotent,
            head_decides=head_decides,
            now=self._clock.monotonic,
            resolve=self._resolve,
        )
        current_setup.set(setup)
        return self._exchange(request, setup, token_ms, client_span)

    def close(self) -> None:
        self._adapter.close()

    def _authorization(self, call: Call, rule: Downstream) -> dict[str, str]:
        """The header with the ID token that the rule asks for; never over http, and never to an IP address."""
        if rule.auth == "none":
            return {}
        parts = urlsplit(call.url)
        if parts.scheme != "https" or re.fullmatch(r"[0-9.]*|.*:.*", parts.hostname or ""):
            raise IdentityFailed("no ID token: it is sent over https to a host name only")
        return {"authorization": f"Bearer {self._id_token(rule.audience_of(call.url))}"}

    def _exchange(
        self, request: requests.PreparedRequest, setup: ConnectionSetup, token_ms: int | None, client_span: ClientSpan
    ) -> Exchange:
        deadline, sent = setup.deadline, self._clock.monotonic()
        responded_at, response, size, retry_after, detail = None, None, None, None, None
        try:
            with client_span(request) as responded:
                received = self._adapter.send(request)
                responded(received)
            with received:
                responded_at = self._clock.monotonic()
                body = _read_for_a_moment(received) if setup.head_decides else _read(received)
                if not deadline.detach() and not setup.head_decides:
                    raise requests.Timeout
        except _FAILURES as exc:
            deadline.detach()
            detail = str(exc) if isinstance(exc, DownstreamDenied) else None
            ending = AttemptResult(None, _reason(exc, setup), was_sent=deadline.was_sent)
            setup.close_duplicate()
        else:
            headers, size = _kept_headers(received), body.size
            response = Response(
                status_code=received.status_code, headers=headers, body=body.kept, truncated=size != len(body.kept)
            )
            retry_after = parse_retry_after(received.headers.get("Retry-After"), self._clock.now())
            ending = AttemptResult(received.status_code, reasons.of_status(received.status_code), retry_after)
        ended = self._clock.monotonic()
        waited = (responded_at or ended) - sent - (setup.connect or 0) - (setup.tls or 0)
        timing = Timing(
            token_ms=token_ms,
            connect_ms=_ms(setup.connect),
            tls_ms=_ms(setup.tls),
            first_byte_ms=_ms(max(0.0, waited)) if setup.response and setup.response.has_started else None,
            body_ms=None if responded_at is None else _ms(ended - responded_at),
        )
        return Exchange(ending, timing, response, size if response else None, detail)


class _Body(Struct, frozen=True):
    """The first bytes of a body and its size; the size is None if its end did not arrive."""

    kept: bytes
    size: int | None


def _read(received: Received) -> _Body:
    """The whole body, neither decoded nor parsed."""
    kept, size = bytearray(), 0
    while chunk := received.raw.read():
        kept += chunk[: max(0, BODY_KEPT - size)]
        size += len(chunk)
    return _Body(bytes(kept), size)


def _read_for_a_moment(received: Received) -> _Body:
    """What arrives within 1 s of a body that is not needed."""
    kept = bytearray()
    received.raw.stop_after(BODY_TIMEOUT)
    with suppress(*_FAILURES):
        while len(kept) <= BODY_KEPT:
            chunk = received.raw.read()
            if not chunk:
                return _Body(bytes(kept[:BODY_KEPT]), len(kept))
            kept += chunk
    return _Body(bytes(kept[:BODY_KEPT]), None)


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _prepared(call: Call, origin: Origin, target: str, added: Mapping[str, str]) -> requests.PreparedRequest:
    """The request as requests prepares it, without what no call has: cookies, passwords, forms, files and hooks."""
    headers = {
        "accept": "*/*",
        "user-agent": _USER_AGENT,
        **{name.lower(): value for name, value in call.headers.items()},
        **added,
        "accept-encoding": "identity",
    }
    if call.body or call.method not in ("GET", "HEAD"):
        headers["Content-Length"] = str(len(call.body))
    prepared = requests.PreparedRequest()
    prepared.method, prepared.url, prepared.body = call.method, f"{origin.url}{target}", call.body or None
    prepared.headers = CaseInsensitiveDict(headers)
    return prepared


def _kept_headers(received: Received) -> dict[str, str]:
    """The response's headers up to 8 KB in all; no cookies, since these are the relay's own."""
    kept, size = {}, 0
    for name, value in received.raw.headers.items():
        size += len(name) + len(value)
        if size <= HEADERS_KEPT and name not in ("set-cookie", "set-cookie2"):
            kept[name] = value
    return kept


_FAILURES = (
    DownstreamDenied,
    Unavailable,
    requests.RequestException,
    http.client.HTTPException,
    OSError,
    ValueError,
)
_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (urllib3.exceptions.NameResolutionError, "dns_failed"),
    (ssl.SSLCertVerificationError, "tls_failed"),
    (http.client.IncompleteRead, "incomplete_response"),
    (http.client.RemoteDisconnected, "reset"),
    (ConnectionError, "reset"),
    (http.client.HTTPException, "malformed_response"),
    (OSError, "reset"),
    (urllib3.exceptions.HTTPError, "reset"),
)
_BEFORE_SENDING = ("dns_failed", "tls_failed")


def _reason(exc: BaseException, setup: ConnectionSetup) -> str:
    """The reason code: of an abort by the relay first, then of the innermost cause that has one."""
    deadline = setup.deadline
    if isinstance(exc, (DownstreamDenied, requests.exceptions.InvalidHeader)):
        return "denied"
    if deadline.aborted_by == "cancelled":
        return "cancelled"
    if deadline.aborted_by == "interrupted" or isinstance(exc, Unavailable):
        return "interrupted"
    if deadline.aborted_by == "deadline" and deadline.was_sent:
        return "timeout"
    causes = list(_causes(exc))
    found = (reason for kind, reason in _REASONS if any(isinstance(cause, kind) for cause in causes))
    reason = next(found, "malformed_response")
    if reason == "reset" and setup.is_stale:
        return "stale_connection"
    return reason if deadline.was_sent or reason in _BEFORE_SENDING else "connect_failed"


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """The error, what it wraps and its causes, each once; without requests' own errors, which only wrap."""
    found: set[int] = set()
    left: list[object] = [exc]
    while left:
        cause = left.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in found:
            found.add(id(cause))
            if not isinstance(cause, requests.RequestException):
                yield cause
            left += [*cause.args, getattr(cause, "reason", None), cause.__cause__, cause.__context__]
