"""
The signature of a callback, made and verified as in Standard Webhooks: HMAC-SHA256 of `id.timestamp.body`.

No error here contains a secret or a body.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import hashlib
import hmac
import re
from typing import TYPE_CHECKING

from traced_relay.errors import NotVerified

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TOLERANCE = 300.0  # seconds between a callback's timestamp and the receiver's clock, either way
HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")
# The name of a secret in Secret Manager; version `latest` unless it names one.
SECRET_NAME = re.compile(
    r"projects/[A-Za-z0-9.:_-]{1,100}/secrets/[A-Za-z0-9_-]{1,255}(/versions/(?!0+\Z)[A-Za-z0-9_-]{1,63})?"
)

_PREFIX = "whsec_"
_LEAST, _MOST = 24, 64  # bytes
_RULE = f"must be {_PREFIX} and the base64 of {_LEAST} to {_MOST} bytes, or several of these with spaces between"
_QUOTES = "\"'`\u2018\u2019\u201c\u201d"
_ID = re.compile(r"[!-\-/-~]{1,256}")  # printable; a dot would let one signature fit two ids
_TIMESTAMP = re.compile(r"[0-9]{1,12}")
_SIGNATURE = re.compile(r"v1,[A-Za-z0-9+/]{43}=")


def parse_secrets(text: str) -> tuple[bytes, ...]:
    """
    The keys of one or more secrets separated by white space; ValueError names the rule and what breaks it.

    Strips the byte order mark, quotes or `v1,` that editors, shells and dashboards add; no secret contains them.
    """
    words = [word.strip(_QUOTES).removeprefix("v1,") for word in text.removeprefix("\ufeff").split()]
    if not any(words):
        raise ValueError(f"{_RULE}; it is empty")
    several = len(words) > 1
    return tuple(_key(word, f"secret {number}" if several else "it") for number, word in enumerate(words, 1))


def text_of(content: bytes) -> str:
    """The text in a file or in Secret Manager: UTF-8, or the UTF-16 that PowerShell writes."""
    is_utf_16 = content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    odd = "utf-16-be" if content[:1] == b"\0" else "utf-16-le" if content[1:2] == b"\0" else "utf-8-sig"
    try:
        return content.decode("utf-16" if is_utf_16 else odd)
    except UnicodeDecodeError:
        # Not `from` the cause, which contains the secret.
        raise ValueError(f"{_RULE}; it is not text, in UTF-8 or UTF-16") from None


def _key(secret: str, which: str) -> bytes:
    if not secret.startswith(_PREFIX):
        raise ValueError(f"{_RULE}; {which} does not start with {_PREFIX}")
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{_RULE}; {which} is not base64 with its padding after {_PREFIX}") from None
    if not _LEAST <= len(key) <= _MOST:
        raise ValueError(f"{_RULE}; {which} has {len(key)} bytes")
    return key


def sign(secrets: Iterable[bytes], webhook_id: str, timestamp: float, body: bytes) -> dict[str, str]:
    """The headers of one attempt that starts at *timestamp*, signed with every secret."""
    at = str(int(timestamp))
    return dict(zip(HEADERS, (webhook_id, at, " ".join(_signatures(secrets, webhook_id, at, body))), strict=True))


def verify(
    secrets: Iterable[bytes], headers: Mapping[str, str], body: bytes, now: float, tolerance: float = TOLERANCE
) -> None:
    """Pass if one of the *secrets* signed this *body* within *tolerance* seconds; NotVerified says why not."""
    webhook_id, timestamp, signature = _signature_headers(headers)
    if not _ID.fullmatch(webhook_id):
        raise NotVerified("webhook-id must be printable ASCII without a space or a dot")
    if not _TIMESTAMP.fullmatch(timestamp):
        raise NotVerified("webhook-timestamp must be whole seconds since 1970")
    given = [entry.encode() for entry in signature.split() if _SIGNATURE.fullmatch(entry)]
    if not given:
        raise NotVerified("webhook-signature must contain v1, and the base64 of 32 bytes")
    age = now - int(timestamp)
    if age > tolerance:
        raise NotVerified(f"webhook-timestamp is {age:.0f} s old, and at most {tolerance:g} s are tolerated")
    if -age > tolerance:
        raise NotVerified(f"webhook-timestamp is {-age:.0f} s ahead, and at most {tolerance:g} s are tolerated")
    right = [entry.encode() for entry in _signatures(secrets, webhook_id, timestamp, body)]
    if not any(hmac.compare_digest(one, other) for one in given for other in right):
        raise NotVerified("no signature matches: another secret signed it, or it was changed in transit")


def _signatures(secrets: Iterable[bytes], webhook_id: str, timestamp: str, body: bytes) -> list[str]:
    signed = b".".join((webhook_id.encode(), timestamp.encode(), body))
    digests = [hmac.digest(secret, signed, hashlib.sha256) for secret in secrets]
    return [f"v1,{base64.b64encode(digest).decode()}" for digest in digests]


def _signature_headers(headers: Mapping[str, str]) -> tuple[str, ...]:
    given = {name.lower(): value for name, value in headers.items()}
    for name in HEADERS:
        if not given.get(name):
            raise NotVerified(f"{name} is missing")
    return tuple(given[name] for name in HEADERS)
