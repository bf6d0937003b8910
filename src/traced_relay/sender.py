"""One exchange with one downstream. An answer is data, whatever its status; its absence is a reason."""

from __future__ import annotations

import http.client
import re
import time
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests
import urllib3.exceptions

import traced_relay
from traced_relay import egress, reasons
from traced_relay.errors import DownstreamDenied, IdentityFailed
from traced_relay.retry import Ending, parse_retry_after
from traced_relay.rows import Response

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    from traced_relay.calls import Call
    from traced_relay.clock import Clock
    from traced_relay.downstreams import Downstream
    from traced_relay.watch import Guard

BODY_KEPT = 64 * 1024
HEADERS_KEPT = 8 * 1024
_CHUNK = 64 * 1024


@dataclass(frozen=True)
class Timing:
    """Where an attempt's time went, in milliseconds; None for a part it did not have."""

    token_ms: int | None = None
    connect_ms: int | None = None
    tls_ms: int | None = None
    first_byte_ms: int | None = None
    body_ms: int | None = None


@dataclass(frozen=True)
class Exchange:
    ending: Ending
    timing: Timing
    response: Response | None = None
    response_size: int | None = None


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Nowhere: a redirect is an answer. requests would read its whole body to prepare the next request."""


class Sender:
    """Makes calls over kept connections; no cookies, no redirects, no proxies or passwords from the environment."""

    def __init__(
        self,
        clock: Clock,
        id_token: Callable[[str], str],
        *,
        connections: int = 100,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._clock = clock
        self._id_token = id_token
        self._session = _Session()
        self._session.trust_env = False
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        adapter = egress.Adapter(connections, tls)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    def send(self, call: Call, rule: Downstream | None, idempotency_key: str, guard: Guard) -> Exchange:
        """Make the *call* as its *rule* says, until the *guard* is cut; without a rule it is denied."""
        if rule is None:
            return Exchange(Ending(None, "denied", was_sent=False), Timing())
        started = self._clock.monotonic()
        try:
            authorization = self._authorization(call, rule)
        except IdentityFailed:
            return Exchange(Ending(None, "auth_unavailable", was_sent=False), Timing(self._since(started)))
        token_ms = self._since(started) if authorization else None
        until = time.monotonic() + min(call.timeout, egress.OPENING_TIMEOUT)
        opening = egress.Opening(guard, allow_private=rule.allow_private, until=until)
        egress.opening.set(opening)
        return self._exchange(_prepared(call, idempotency_key, authorization), opening, token_ms)

    def close(self) -> None:
        self._session.close()

    def _authorization(self, call: Call, rule: Downstream) -> dict[str, str]:
        """The ID token that the rule asks for; never over http, and never to a bare address."""
        if rule.auth == "none":
            return {}
        parts = urlsplit(call.url)
        if parts.scheme != "https" or re.fullmatch(r"[0-9.]*|.*:.*", parts.hostname or ""):
            raise IdentityFailed("an ID token goes to a name, over https")
        return {"authorization": f"Bearer {self._id_token(rule.audience_of(call.url))}"}

    def _exchange(self, request: requests.PreparedRequest, opening: egress.Opening, token_ms: int | None) -> Exchange:
        guard, sent = opening.guard, self._clock.monotonic()
        answered, response, size, retry_after = None, None, None, None
        try:
            with self._session.send(
                request, stream=True, allow_redirects=False, timeout=(egress.OPENING_TIMEOUT, None)
            ) as answer:
                answered = self._clock.monotonic()
                kept, size = _read(answer)
                if not guard.release():
                    raise requests.Timeout
        except (DownstreamDenied, requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as exc:
            guard.release()
            ending = Ending(None, _reason(exc, guard), was_sent=guard.was_sent)
        else:
            headers = _kept_headers(answer)
            response = Response(status_code=answer.status_code, headers=headers, body=kept, truncated=size > len(kept))
            retry_after = parse_retry_after(answer.headers.get("Retry-After"), self._clock.now())
            ending = Ending(answer.status_code, reasons.of_status(answer.status_code), retry_after)
        ended = self._clock.monotonic()
        timing = Timing(
            token_ms=token_ms,
            connect_ms=_ms(opening.connect),
            tls_ms=_ms(opening.tls),
            first_byte_ms=_ms(max(0.0, (answered or ended) - sent - (opening.connect or 0) - (opening.tls or 0))),
            body_ms=None if answered is None else _ms(ended - answered),
        )
        return Exchange(ending, timing, response, size if response else None)

    def _since(self, started: float) -> int:
        return round((self._clock.monotonic() - started) * 1000)


def _read(answer: requests.Response) -> tuple[bytes, int]:
    """The first bytes of the body as they came, and how many there were; never decoded, never parsed."""
    kept, size = bytearray(), 0
    while chunk := answer.raw.read1(_CHUNK, decode_content=False):
        kept += chunk[: max(0, BODY_KEPT - size)]
        size += len(chunk)
    return bytes(kept), size


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _prepared(call: Call, idempotency_key: str, authorization: dict[str, str]) -> requests.PreparedRequest:
    headers = {
        "accept": "*/*",
        "user-agent": f"traced-relay/{traced_relay.__version__}",
        **{name.lower(): value for name, value in call.headers.items()},
        **authorization,
        "accept-encoding": "identity",
        "idempotency-key": idempotency_key,
    }
    return requests.Request(call.method, call.url, headers=headers, data=call.body or None).prepare()


def _kept_headers(answer: requests.Response) -> dict[str, str]:
    """The answer's headers while they fit; cookies are the relay's own and stay here."""
    kept, size = {}, 0
    for name, value in answer.headers.items():
        size += len(name) + len(value)
        if size <= HEADERS_KEPT and name.lower() not in ("set-cookie", "set-cookie2"):
            kept[name.lower()] = value
    return kept


_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (urllib3.exceptions.InvalidHeader, "malformed_response"),
    (urllib3.exceptions.NameResolutionError, "dns_failed"),
    (urllib3.exceptions.NewConnectionError, "connect_failed"),
    (urllib3.exceptions.ConnectTimeoutError, "connect_failed"),
    (urllib3.exceptions.SSLError, "tls_failed"),
    (requests.ConnectTimeout, "connect_failed"),
    (requests.exceptions.SSLError, "tls_failed"),
    (requests.Timeout, "timeout"),
    (urllib3.exceptions.TimeoutError, "timeout"),
    (http.client.IncompleteRead, "incomplete_response"),
    (urllib3.exceptions.InvalidChunkLength, "incomplete_response"),
    (http.client.RemoteDisconnected, "reset"),
    (ConnectionError, "reset"),
    (http.client.HTTPException, "malformed_response"),
    (TimeoutError, "reset"),
    (urllib3.exceptions.ProtocolError, "incomplete_response"),
    (urllib3.exceptions.HTTPError, "reset"),
    (requests.ConnectionError, "reset"),
)


def _reason(exc: BaseException, guard: Guard) -> str:
    """The contract's word for what went wrong: our own doing first, then the innermost cause that has one."""
    if isinstance(exc, DownstreamDenied):
        return "denied"
    if guard.cut_for is not None:
        late = "timeout" if guard.was_sent else "connect_failed"
        return late if guard.cut_for == "deadline" else "interrupted"
    causes = list(_causes(exc))
    for kind, reason in _REASONS:
        if any(isinstance(cause, kind) for cause in causes):
            return reason
    return "malformed_response"


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """The error, what it wraps in its arguments and what it came from, each once."""
    seen: set[int] = set()
    left: list[object] = [exc]
    while left:
        cause = left.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            left += [*cause.args, getattr(cause, "reason", None), cause.__cause__, cause.__context__]
