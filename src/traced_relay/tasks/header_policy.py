"""Which headers a call may set: those of RFC 9110, without the relay's own and hop-by-hop ones."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from traced_relay.errors import FieldError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_HEADERS = 50
MAX_BYTES = 8192

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\x20-\x7e]*")
_OWNED = frozenset(
    [
        "host",
        "accept-encoding",
        "content-length",
        "transfer-encoding",
        "te",
        "trailer",
        "connection",
        "keep-alive",
        "upgrade",
        "expect",
        "authorization",
        "x-serverless-authorization",
        "cookie",
        "forwarded",
        "via",
        "metadata-flavor",
        "traceparent",
        "tracestate",
        "baggage",
        "idempotency-key",
    ]
)
_OWNED_PREFIXES = (
    "proxy-",
    "x-forwarded-",
    "x-google-",
    "x-goog-",
    "x-appengine-",
    "x-cloudtasks-",
    "x-cloud-trace-",
    "x-relay-",
    "webhook-",
)


def is_owned(name: str) -> bool:
    """Whether the header belongs to the relay or to the connection; `_` counts as `-`, as some servers read it."""
    folded = name.lower().replace("_", "-")
    return folded in _OWNED or folded.startswith(_OWNED_PREFIXES)


def with_content_type(headers: Mapping[str, str], content_type: str | None) -> dict[str, str]:
    """The *headers*, with this *content_type* first unless they name one."""
    named = any(name.lower() == "content-type" for name in headers)
    return dict(headers) if named or content_type is None else {"content-type": content_type, **headers}


def broken_rules(headers: Mapping[str, str]) -> Iterator[FieldError]:
    """The rules that *headers* break, without their values, which may be secrets."""
    seen: set[str] = set()
    for name, value in headers.items():
        field = f"headers.{name}"[:300]
        if not _TOKEN.fullmatch(name):
            yield FieldError(field, "must be a header name: letters, digits and !#$%&'*+-.^_`|~ only")
        elif is_owned(name):
            yield FieldError(field, "is set by the relay or belongs to the connection; a call cannot set it")
        elif name.lower() in seen:
            yield FieldError(field, "is given twice; header names are case-insensitive")
        elif not _VALUE.fullmatch(value) or value != value.strip():
            yield FieldError(field, "must be printable ASCII without leading or trailing spaces")
        seen.add(name.lower())
    if len(headers) > MAX_HEADERS:
        yield FieldError("headers", f"must be at most {MAX_HEADERS}, got {len(headers)}")
    if sum(len(name) + len(value) for name, value in headers.items()) > MAX_BYTES:
        yield FieldError("headers", f"must take at most {MAX_BYTES} bytes together")
