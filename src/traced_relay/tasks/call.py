"""
A call: the HTTP request that a caller wants made, and all that may be said about making it.

What is here has been checked; nobody further in looks again.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from traced_relay.formats import strict_json
from traced_relay.formats.durations import format_duration, parse_duration, parse_time

DAY = 86_400.0
SCHEDULE_AHEAD = 30 * DAY
MAX_URL = 8192
MAX_HOST = 253
# Labels of at most 63 characters (RFC 1035), or an IPv6 address without zone; what resolvers would choke on stays out.
_HOST = re.compile(r"(([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
REPEATABLE: tuple[Method, ...] = ("GET", "HEAD", "PUT", "DELETE", "OPTIONS")  # RFC 9110, section 9.2.2
Jitter = Literal["full", "equal", "none"]
Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["30s", "1.5s", "5m", "24h", "7d"]}),
]
Time = Annotated[float, BeforeValidator(parse_time), WithJsonSchema({"type": "string", "format": "date-time"})]


def _check_url(url: str) -> str:
    """An absolute http(s) URL, without userinfo and fragment, whose target can be sent as it is."""
    if len(url) > MAX_URL:
        raise ValueError(f"must take at most {MAX_URL} characters, got {len(url)}")
    if re.match(r"[^/?#]*//[^/?#]*[^\x00-\x7f]", url):
        raise ValueError("must have a host in ASCII; write an international name in its xn-- form")
    if not re.fullmatch("[!-~]*", url):
        raise ValueError("must be printable ASCII; percent-encode everything else (RFC 3986)")
    if re.search(r"%(?![0-9A-Fa-f]{2})", url):
        raise ValueError("must have two hex digits behind every % (RFC 3986)")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise ValueError("must have a valid host, and a port from 1 to 65535") from exc
    if parts.scheme not in ("http", "https"):
        raise ValueError("must start with http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("must not carry a user name or password")
    if not _HOST.fullmatch(parts.netloc) or len(parts.hostname or "") > MAX_HOST or port == 0:
        raise ValueError("must have a host, by its name in DNS or its IP address, and a port from 1 to 65535 if any")
    if "#" in url:
        raise ValueError("must have no fragment, because HTTP never sends one; percent-encode # as %23")
    return url


def split_target(url: str) -> tuple[str, str]:
    """The origin of *url* and its request target (RFC 9112, section 3.2.1), byte for byte; ValueError without them."""
    parts = re.fullmatch(r"([^/?#]+://[^/?#]+)(/[!-\"$->@-~]*)?(\?[!-\"$-~]*)?(#.*)?", url)
    if parts is None:
        raise ValueError("must be an absolute URL in printable ASCII")
    return parts[1], f"{parts[2] or '/'}{parts[3] or ''}"


_URL = "An absolute http or https URL in printable ASCII; its path and query are sent byte for byte."
Url = Annotated[str, AfterValidator(_check_url), Field(description=_URL)]


class Model(BaseModel):
    """Strict, frozen, and closed: a name it does not know is an error, never ignored."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


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


class RetryRequest(RetryPolicy):
    """A policy as a caller gives it: what is left out comes from relay.yaml, and only then are its parts compared."""

    @field_validator("max_backoff")
    @classmethod
    def _max_is_not_below_min(cls, value: float) -> float:  # type: ignore[override]
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


def _check_label(text: str) -> str:
    if any(c < " " or "\x7f" <= c <= "\x9f" for c in text):
        raise ValueError("must not hold control characters")
    return text


LabelKey = Annotated[str, Field(min_length=1, max_length=63), AfterValidator(_check_label)]
LabelValue = Annotated[str, Field(max_length=256), AfterValidator(_check_label)]


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


class EnqueueRequest(Model):
    """
    The body of `POST /v1/tasks`.

    null means "not given" for every field, `body` too: JSON's null is sent as
    `"body": "null"` with its content type. With `route: direct` Cloud Tasks
    calls the URL itself; such a call has no status.
    """

    url: Url
    method: Method = "POST"
    headers: dict[str, str] = Field(default={})
    body: JsonBody = None
    body_base64: str | None = None
    queue: str | None = None
    route: Literal["relay", "direct"] = "relay"
    schedule_time: Time | None = None
    delay: Annotated[Duration, Field(ge=0, le=SCHEDULE_AHEAD)] | None = None
    timeout: Annotated[Duration, Field(gt=0)] | None = None
    retry: RetryRequest | None = None
    idempotent: Annotated[bool | None, Field(description=f"null: true for {', '.join(REPEATABLE)}, else false.")] = None
    callback: Callback | None = None
    labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=16)] = Field(default={})

    @field_validator("body_base64")
    @classmethod
    def _body_is_base64(cls, value: str | None) -> str | None:
        try:
            base64.b64decode(value or "", validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("must be base64 (RFC 4648, section 4) with its padding") from None
        return value

    @model_validator(mode="after")
    def _one_of_each(self) -> EnqueueRequest:
        for one, other in (("body", "body_base64"), ("schedule_time", "delay")):
            if {one, other} <= self.model_fields_set:
                raise ValueError(f"{other}: must not be given together with {one}")
        return self

    def content(self) -> tuple[bytes, str | None]:
        """The body as it is sent, byte for byte, and the content type it has unless the caller names one."""
        if self.body_base64 is not None:
            return base64.b64decode(self.body_base64), "application/octet-stream"
        if "body" not in self.model_fields_set:
            return b"", None
        return content_of(self.body), "text/plain; charset=utf-8" if isinstance(self.body, str) else "application/json"

    def headers_for(self, content_type: str | None) -> dict[str, str]:
        named = any(name.lower() == "content-type" for name in self.headers)
        return dict(self.headers) if named or content_type is None else {"content-type": content_type, **self.headers}
