"""
Verification of ID tokens: a token in, its claims out, or NotAuthorized with the rule that it breaks.

Reads no clock. A refusal quotes nothing from an unverified token: only the rule, and times of a correctly signed one.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from google.auth import crypt

from traced_relay.errors import NotAuthorized, Unavailable
from traced_relay.formats import strict_json
from traced_relay.formats.durations import format_time

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_TOKEN = 8192
MAX_SIGNED = 1000  # tokens whose signature is remembered
SKEW = 30
_LATEST = 253_402_300_799  # the end of year 9999
_SEGMENT = re.compile(r"[A-Za-z0-9_-]*")  # base64url without padding (RFC 7515, section 2)
_crypt: Any = crypt  # untyped


class _Signed(NamedTuple):
    """What the signature of a token was checked with, and what it signs."""

    key_id: str
    key: str
    claims: Mapping[str, Any]


class Verifier:
    """
    Verifies ID tokens, the signature of each only once per key.

    *keys* returns the public keys for a key id, or raises Unavailable. Without *issuers*, any is accepted. The
    signatures of the *most* tokens that were used last are remembered, by the tokens' hashes.
    """

    def __init__(
        self,
        keys: Callable[[str], Mapping[str, str]],
        *,
        audience: str | None,
        issuers: tuple[str, ...] | None,
        most: int = MAX_SIGNED,
    ) -> None:
        self._keys = keys
        self._audience = audience
        self._issuers = issuers
        self._most = most
        self._signed: OrderedDict[bytes, _Signed] = OrderedDict()  # the least recently used first
        self._lock = Lock()

    def __len__(self) -> int:
        """The number of remembered signatures."""
        return len(self._signed)

    def verify(self, token: str, now: float) -> Mapping[str, Any]:
        """The claims of a valid *token*; NotAuthorized (401) for any other text."""
        if not self._audience:
            _refuse("relay.yaml sets no audience, so the relay accepts no ID token", reason="no_audience")
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        with self._lock:
            signed = self._signed.pop(digest, None)
        # The key is compared at each use, so a key that was revoked or replaced ends what was verified with it.
        if signed is None or self._keys(signed.key_id).get(signed.key_id) != signed.key:
            signed = self._checked(token, now)
        self._check_issuer(signed.claims)
        if signed.claims.get("aud") != self._audience:
            _refuse(f"the token is for another audience; this relay requires {self._audience}", reason="wrong_audience")
        _check_times(signed.claims, now)
        with self._lock:
            self._signed[digest] = signed
            if len(self._signed) > self._most:
                self._signed.popitem(last=False)
        return signed.claims

    def _checked(self, token: str, now: float) -> _Signed:
        header, claims, signed, signature = _decoded(token)
        key_id = _key_id(header)
        key = self._keys(key_id).get(key_id)
        if key is None:
            self._check_issuer(claims)  # unverified, but the likeliest cause: each issuer has its own keys
            also = ", and the token has expired (exp)" if _says_expired(claims.get("exp"), now) else ""
            _refuse(f"the token's key id (kid) is not among the issuer's current keys{also}", reason="unknown_key")
        if not _is_signed(signed, signature, key):
            _refuse("the token's signature does not match its content", reason="bad_signature")
        return _Signed(key_id, key, claims)

    def _check_issuer(self, claims: Mapping[str, Any]) -> None:
        if self._issuers is not None and claims.get("iss") not in self._issuers:
            _refuse(f"the token's issuer (iss) must be {self._issuers[0]}", reason="unknown_issuer")


def email_of(claims: Mapping[str, Any]) -> str:
    """The email address in a valid token's *claims*, if its issuer verified it."""
    email = claims.get("email")
    if not isinstance(email, str) or not email:
        _refuse("the token has no email claim; gcloud adds it with --include-email", reason="no_email")
    if claims.get("email_verified") is not True:
        _refuse("the token's email is not verified by its issuer", reason="email_not_verified")
    return email


def _refuse(detail: str, *, reason: str) -> NoReturn:
    raise NotAuthorized(detail, status=401, reason=reason)


def _decoded(token: str) -> tuple[dict[str, Any], dict[str, Any], bytes, bytes]:
    """Header, claims, the signed bytes, and the signature."""
    if len(token) > MAX_TOKEN:
        _refuse(f"the token is longer than {MAX_TOKEN} characters", reason="malformed_token")
    parts = token.split(".")
    if len(parts) != 3 or not all(_SEGMENT.fullmatch(part) and len(part) % 4 != 1 for part in parts):
        _refuse("the token is not a JWT: three parts in base64url with dots between", reason="malformed_token")
    header, claims, signature = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in parts)
    return _json_object(header), _json_object(claims), token.rpartition(".")[0].encode(), signature


def _json_object(segment: bytes) -> dict[str, Any]:
    try:
        value = strict_json.loads(segment)
    except strict_json.NotJson:
        value = None
    if not isinstance(value, dict):
        _refuse(
            "the token's header and claims must each be one JSON object without repeated names",
            reason="malformed_token",
        )
    return value


def _key_id(header: Mapping[str, Any]) -> str:
    """The key id in the *header*, after a check of the header's other fields."""
    if header.get("alg") != "RS256":
        _refuse("the token must be signed with RS256", reason="unsupported_token")
    if "crit" in header:  # RFC 7515, section 4.1.11
        _refuse(
            "the token's header has critical extensions (crit); the relay supports none", reason="unsupported_token"
        )
    if "b64" in header or "zip" in header or "cty" in header:
        _refuse(
            "the token's content must be plain claims: b64, zip and cty are not supported", reason="unsupported_token"
        )
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.upper() != "JWT":
        _refuse("the token's type (typ) must be JWT", reason="unsupported_token")
    key_id = header.get("kid")
    if not isinstance(key_id, str) or not key_id:
        _refuse("the token's header must have a key id (kid), a string", reason="malformed_token")
    return key_id


def _is_signed(signed: bytes, signature: bytes, key: str) -> bool:
    try:
        verifier = _crypt.RSAVerifier.from_string(key)
    except ValueError as exc:
        raise Unavailable("a certificate to verify ID tokens is unreadable") from exc
    return bool(verifier.verify(signed, signature))


def _check_times(claims: Mapping[str, Any], now: float) -> None:
    issued, expires, valid_from = (_time_claim(claims, name) for name in ("iat", "exp", "nbf"))
    if issued is None or expires is None:
        _refuse("the token must have the claims iat and exp", reason="malformed_token")
    valid_at = max(issued, issued if valid_from is None else valid_from)
    if now < valid_at - SKEW:
        _refuse(f"the token is not valid before {format_time(valid_at)}; check the clocks", reason="not_yet_valid")
    if now > expires + SKEW:
        _refuse(f"the token expired at {format_time(expires)}", reason="expired")


def _says_expired(expires: object, now: float) -> bool:
    """Whether an unverified `exp` has passed: a token older than the issuer's keys; only for the text of a refusal."""
    return isinstance(expires, int | float) and not isinstance(expires, bool) and now > expires + SKEW


def _time_claim(claims: Mapping[str, Any], name: str) -> float | None:
    """The claim in seconds since the epoch (RFC 7519, section 2); None if it is absent."""
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST:
        _refuse(f"the token's {name} must be a number of seconds since 1970", reason="malformed_token")
    return value
