"""
ID tokens with the claims that Google gives a service account's, signed by the emulator's own key.

The only time here is an argument.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from google.auth import crypt, jwt

if TYPE_CHECKING:
    from collections.abc import Callable

    from traced_relay.runtime.clock import Clock

LIFETIME = 3600
REUSE_SECONDS = 300.0
_MOST_TOKENS = 1024


class Signer:
    """One RSA key: signs tokens, and publishes its public half for their verification."""

    def __init__(self, key: rsa.RSAPrivateKey) -> None:
        self._public = key.public_key()
        self.pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.key_id: str = hashlib.sha256(self._public_pem()).hexdigest()[:40]
        self._signer = crypt.RSASigner(key, key_id=self.key_id)  # type: ignore[no-untyped-call]

    @classmethod
    def generate(cls) -> Signer:
        return cls(rsa.generate_private_key(public_exponent=65537, key_size=2048))

    @classmethod
    def from_pem(cls, pem: bytes) -> Signer:
        key = load_pem_private_key(pem, password=None)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise TypeError("the key that signs ID tokens must be an RSA key")
        return cls(key)

    def mint(self, email: str, audience: str, *, issuer: str, now: float) -> str:
        subject = _unique_id(email)
        claims = {
            "iss": issuer,
            "aud": audience,
            "azp": subject,
            "sub": subject,
            "email": email,
            "email_verified": True,
            "iat": int(now),
            "exp": int(now) + LIFETIME,
        }
        token: bytes = jwt.encode(self._signer, claims)  # type: ignore[no-untyped-call]
        return token.decode("ascii")

    def jwks(self) -> dict[str, Any]:
        numbers = self._public.public_numbers()
        key = {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": self.key_id}
        return {"keys": [key | {"n": _base64url(numbers.n), "e": _base64url(numbers.e)}]}

    def certificates(self) -> dict[str, str]:
        """The *certs* argument of `google.auth.jwt.decode`."""
        return {self.key_id: self._public_pem().decode("ascii")}

    def _public_pem(self) -> bytes:
        return self._public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


class ReusedTokens:
    """
    The tokens of dispatches: *mint* signs one for an account and audience, and others get the same for five minutes.

    A signature takes longer than the rest of a dispatch. As with Google's, a token may be older than its dispatch.
    """

    def __init__(self, mint: Callable[[str, str], str], clock: Clock) -> None:
        self._mint = mint
        self._clock = clock
        self._minted: dict[tuple[str, str], tuple[float, str]] = {}

    def get(self, email: str, audience: str) -> str:
        now = self._clock.now()
        at, token = self._minted.get((email, audience), (now - REUSE_SECONDS, ""))
        if 0 <= now - at < REUSE_SECONDS:
            return token
        token = self._mint(email, audience)
        if len(self._minted) >= _MOST_TOKENS:
            self._minted.clear()
        self._minted[email, audience] = now, token
        return token


def _unique_id(email: str) -> str:
    """A service account's 21 digits, here derived from its *email*."""
    return f"1{int.from_bytes(hashlib.sha256(email.encode()).digest(), 'big') % 10**20:020}"


def _base64url(number: int) -> str:
    octets = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")
