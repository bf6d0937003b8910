"""A call: the HTTP request that a caller wants made, with its retry policy. Values are validated here and only here."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from msgspec import field
from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from traced_relay.formats import strict_json
from traced_relay.formats.durations import format_duration
from traced_relay.formats.validation import Duration, Model, quoted
from traced_relay.tasks.api_types import Method
from traced_relay.tasks.stored import Stored

DAY = 86_400.0
SCHEDULE_AHEAD = 30 * DAY
MAX_URL = 8192
MAX_HOST = 253
# Labels of at most 63 characters (RFC 1035), or an IPv6 address without zone; resolvers fail on anything else.
_HOST = re.compile(r"(([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")

REPEATABLE: tuple[Method, ...] = ("GET", "HEAD", "PUT", "DELETE", "OPTIONS")  # RFC 9110, section 9.2.2
Jitter = Literal["full", "equal", "none"]


def _check_url(url: str) -> str:
    """Check that *url* is an absolute http(s) URL without userinfo and fragment, which can be sent byte for byte."""
    if len(url) > MAX_URL:
        raise ValueError(f"must take at most {MAX_URL} characters, got {len(url)}")
    authority = re.match(r"[^/?#]*//([^/?#]*)", url)
    host = quoted(authority[1].rpartition("@")[2] if authority else "")  # of a URL nothing else: it may be secret
    if authority and not authority[1].isascii():
        raise ValueError(f"must have a host in ASCII; write an international name in its xn-- form, got {host}")
    if odd := re.search("[^!-~]", url):
        found = f"{quoted(odd[0])} at character {odd.start() + 1}"
        raise ValueError(f"must be printable ASCII; percent-encode everything else (RFC 3986), got {found}")
    if odd := re.search(r"%(?![0-9A-Fa-f]{2})", url):
        found = f"another % at character {odd.start() + 1}"
        raise ValueError(f"must have two hex digits after every % (RFC 3986), got {found}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise ValueError(f"must have a valid host, and a port from 1 to 65535, got {host}") from exc
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"must start with http:// or https://, got {quoted(parts.scheme)}")
    if "@" in parts.netloc:
        raise ValueError("must not contain a user name or password")
    if not _HOST.fullmatch(parts.netloc) or len(parts.hostname or "") > MAX_HOST or port == 0:
        rule = "must have a DNS name or an IP address as its host, and a port, if any, from 1 to 65535"
        raise ValueError(f"{rule}, got {host}")
    if "#" in url:
        rule = "must have no fragment, since HTTP never sends one; percent-encode # as %23"
        raise ValueError(f"{rule}, got # at character {url.index('#') + 1}")
    return url


def split_target(url: str) -> tuple[str, str]:
    """The origin of *url* and its request target (RFC 9112, section 3.2.1), byte for byte; ValueError without them."""
    parts = re.fullmatch(r"([^/?#]+://[^/?#]+)(/[!-\"$->@-~]*)?(\?[!-\"$-~]*)?(#.*)?", url)
    if parts is None:
        raise ValueError("must be an absolute URL in printable ASCII")
    return parts[1], f"{parts[2] or '/'}{parts[3] or ''}"


_URL = (
    "An absolute http or https URL in printable ASCII, at most 8192 characters; path and query are sent byte for byte."
)
Url = Annotated[
    str, AfterValidator(_check_url), Field(description=_URL, examples=["https://reports-x.a.run.app/build"])
]


class RetryPolicy(Model):
    """When a failed attempt is retried: Cloud Tasks' RetryConfig, `jitter` and the retryable status codes."""

    max_attempts: Annotated[
        int,
        Field(
            ge=1, le=10_000, description="Maximum number of attempts, with the first; interrupted ones do not count."
        ),
    ] = 5
    max_retry_duration: Annotated[
        Duration,
        Field(
            ge=0,
            le=365 * DAY,
            description="No retry starts later than this after the first attempt; 0s: no limit.",
            examples=["1h"],
        ),
    ] = 0.0
    min_backoff: Annotated[
        Duration,
        Field(ge=0, le=SCHEDULE_AHEAD, description="Delay of the first retry, before jitter.", examples=["1s"]),
    ] = 1.0
    max_backoff: Annotated[
        Duration, Field(ge=0, le=SCHEDULE_AHEAD, description="Longest delay, before jitter.", examples=["5m"])
    ] = 300.0
    max_doublings: Annotated[
        int, Field(ge=0, le=1000, description="How many times the delay doubles; after that it grows by the last step.")
    ] = 8
    jitter: Annotated[
        Jitter, Field(description="`full`: random, from 0 to the delay; `equal`: from half of it; `none`: the delay.")
    ] = "full"
    retryable_status_codes: Annotated[
        tuple[Annotated[int, Field(ge=400, le=599)], ...] | None,
        Field(
            strict=False,
            max_length=200,
            description="Statuses that are retried; null: 429 and 503, if idempotent also 408, 425, 500, 502 and 504.",
            examples=[[429, 503]],
        ),
    ] = None

    @field_validator("max_backoff")
    @classmethod
    def _max_is_not_below_min(cls, value: float, info: ValidationInfo) -> float:
        least = info.data.get("min_backoff", 0.0)
        if value < least:
            raise ValueError(f"must be at least min_backoff, {format_duration(least)}, got {format_duration(value)}")
        return value


class Callback(Model):
    """URL to notify when the task ends, and the states to notify it of."""

    url: Annotated[Url, Field(examples=["https://app.example.com/task-ended"])]
    on: Annotated[
        tuple[Literal["succeeded", "failed", "cancelled"], ...],
        Field(strict=False, min_length=1, description="Final states to report.", examples=[["failed"]]),
    ] = ("succeeded", "failed", "cancelled")


class Call(Stored, frozen=True, kw_only=True):
    """The request to make, as the ledger stores it."""

    url: str
    method: Method = "POST"
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    timeout: float
    retry: RetryPolicy
    idempotent: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    callback: Callback | None = None


def _check_body(value: Any) -> Any:
    try:
        content_of(value)
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode, without lone surrogates") from None
    return value


def content_of(value: Any) -> bytes:
    """The bytes to send for a JSON body: a string unchanged, everything else as compact JSON."""
    return value.encode() if isinstance(value, str) else strict_json.dumps(value)


JsonBody = Annotated[Any, AfterValidator(_check_body)]


def is_idempotent(method: Method, given: bool | None) -> bool:
    """Whether a call may be repeated: as *given*, else by its method."""
    return method in REPEATABLE if given is None else given
