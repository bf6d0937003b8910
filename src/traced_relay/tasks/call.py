"""
A call: the HTTP request that a caller wants made, and all that may be said about making it.

What is here has been checked; nobody further in looks again.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    Field,
    ValidationInfo,
    field_validator,
)

from traced_relay.formats import strict_json
from traced_relay.formats.durations import format_duration
from traced_relay.formats.validation import Duration, Model, quoted

DAY = 86_400.0
SCHEDULE_AHEAD = 30 * DAY
MAX_URL = 8192
MAX_HOST = 253
# Labels of at most 63 characters (RFC 1035), or an IPv6 address without zone; what resolvers would choke on stays out.
_HOST = re.compile(r"(([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
REPEATABLE: tuple[Method, ...] = ("GET", "HEAD", "PUT", "DELETE", "OPTIONS")  # RFC 9110, section 9.2.2
Jitter = Literal["full", "equal", "none"]


def _check_url(url: str) -> str:
    """An absolute http(s) URL, without userinfo and fragment, whose target can be sent as it is."""
    if len(url) > MAX_URL:
        raise ValueError(f"must take at most {MAX_URL} characters, got {len(url)}")
    authority = re.match(r"[^/?#]*//([^/?#]*)", url)
    host = quoted(authority[1].rpartition("@")[2] if authority else "")  # of a URL nothing else: it may be secret
    if authority and not authority[1].isascii():
        raise ValueError(f"must have a host in ASCII; write an international name in its xn-- form, got {host}")
    if odd := re.search("[^!-~]", url):
        place = f"{quoted(odd[0])} at character {odd.start() + 1}"
        raise ValueError(f"must be printable ASCII; percent-encode everything else (RFC 3986), got {place}")
    if odd := re.search(r"%(?![0-9A-Fa-f]{2})", url):
        place = f"another % at character {odd.start() + 1}"
        raise ValueError(f"must have two hex digits behind every % (RFC 3986), got {place}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise ValueError(f"must have a valid host, and a port from 1 to 65535, got {host}") from exc
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"must start with http:// or https://, got {quoted(parts.scheme)}")
    if "@" in parts.netloc:
        raise ValueError("must not carry a user name or password")
    if not _HOST.fullmatch(parts.netloc) or len(parts.hostname or "") > MAX_HOST or port == 0:
        rule = "must have a host, by its name in DNS or its IP address, and a port from 1 to 65535 if any"
        raise ValueError(f"{rule}, got {host}")
    if "#" in url:
        rule = "must have no fragment, because HTTP never sends one; percent-encode # as %23"
        raise ValueError(f"{rule}, got # at character {url.index('#') + 1}")
    return url


def split_target(url: str) -> tuple[str, str]:
    """The origin of *url* and its request target (RFC 9112, section 3.2.1), byte for byte; ValueError without them."""
    parts = re.fullmatch(r"([^/?#]+://[^/?#]+)(/[!-\"$->@-~]*)?(\?[!-\"$-~]*)?(#.*)?", url)
    if parts is None:
        raise ValueError("must be an absolute URL in printable ASCII")
    return parts[1], f"{parts[2] or '/'}{parts[3] or ''}"


_URL = "An absolute http or https URL in printable ASCII; its path and query are sent byte for byte."
Url = Annotated[str, AfterValidator(_check_url), Field(description=_URL)]


class RetryPolicy(Model):
    """When a failed attempt is followed by another: Cloud Tasks' RetryConfig, `jitter`, and which statuses count."""

    max_attempts: Annotated[int, Field(ge=1, le=10_000)] = 5
    max_retry_duration: Annotated[Duration, Field(ge=0, le=365 * DAY)] = 0.0
    min_backoff: Annotated[Duration, Field(ge=0, le=SCHEDULE_AHEAD)] = 1.0
    max_backoff: Annotated[Duration, Field(ge=0, le=SCHEDULE_AHEAD)] = 300.0
    max_doublings: Annotated[int, Field(ge=0, le=1000)] = 8
    jitter: Jitter = "full"
    retryable_status_codes: Annotated[
        tuple[Annotated[int, Field(ge=400, le=599)], ...] | None, Field(strict=False, max_length=200)
    ] = None

    @field_validator("max_backoff")
    @classmethod
    def _max_is_not_below_min(cls, value: float, info: ValidationInfo) -> float:
        least = info.data.get("min_backoff", 0.0)
        if value < least:
            raise ValueError(f"must be at least min_backoff, {format_duration(least)}, got {format_duration(value)}")
        return value


class Callback(Model):
    """Who is told of the call's end, and of which ends."""

    url: Url
    on: Annotated[tuple[Literal["succeeded", "failed", "cancelled"], ...], Field(strict=False, min_length=1)] = (
        "succeeded",
        "failed",
        "cancelled",
    )


class Call(Model):
    """The request to make and how: what the ledger keeps of the caller's wish."""

    url: str
    method: Method = "POST"
    headers: dict[str, str] = Field(default={})
    body: bytes = b""
    timeout: float
    retry: RetryPolicy
    idempotent: bool = False
    labels: dict[str, str] = Field(default={})
    callback: Callback | None = None


def _check_body(value: Any) -> Any:
    try:
        content_of(value)
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode, without lone surrogates") from None
    return value


def content_of(value: Any) -> bytes:
    """What is sent for a body given as JSON: a string as it is, everything else as compact JSON."""
    return value.encode() if isinstance(value, str) else strict_json.dumps(value)


JsonBody = Annotated[Any, AfterValidator(_check_body)]


def is_idempotent(method: Method, said: bool | None) -> bool:
    """Whether a call may be repeated: as its caller *said*, else as its method is."""
    return method in REPEATABLE if said is None else said
