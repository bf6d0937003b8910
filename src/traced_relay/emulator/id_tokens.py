"""
ID tokens with the claims that Google gives a service account's, signed by the emulator's own key.

Nothing here reads a clock.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from google.auth import crypt, jwt

LIFETIME = 3600


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


def _unique_id(email: str) -> str:
    """A service account's 21 digits, here derived from its *email*."""
    return f"1{int.from_bytes(hashlib.sha256(email.encode()).digest(), 'big') % 10**20:020}"


def _base64url(number: int) -> str:
    octets = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")
