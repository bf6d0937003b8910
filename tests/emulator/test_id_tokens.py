from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.auth import jwt
from google.auth.exceptions import InvalidValue, MalformedError

from traced_relay.emulator.id_tokens import REUSE_SECONDS, ReusedTokens, Signer
from traced_relay.runtime.clock import ManualClock, SystemClock

ISSUER = "http://127.0.0.1:8124"
EMAIL = "worker@p.iam.gserviceaccount.com"
AUDIENCE = "https://reports.example.com"


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer.generate()


def test_a_token_carries_the_claims_of_a_service_account(signer: Signer) -> None:
    token = signer.mint(EMAIL, AUDIENCE, issuer=ISSUER, now=1_790_000_000.75)
    header, claims, _, _ = jwt._unverified_decode(token)
    subject = claims["sub"]
    assert header == {"typ": "JWT", "alg": "RS256", "kid": signer.key_id}
    assert subject.isdigit()
    assert len(subject) == 21
    assert claims == {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "azp": subject,
        "sub": subject,
        "email": EMAIL,
        "email_verified": True,
        "iat": 1_790_000_000,
        "exp": 1_790_003_600,
    }


def test_googles_library_accepts_a_token(signer: Signer) -> None:
    token = signer.mint(EMAIL, AUDIENCE, issuer=ISSUER, now=SystemClock().now())
    assert jwt.decode(token, certs=signer.certificates(), audience=AUDIENCE)["email"] == EMAIL


def test_another_audience_or_key_is_rejected(signer: Signer) -> None:
    token = signer.mint(EMAIL, AUDIENCE, issuer=ISSUER, now=SystemClock().now())
    with pytest.raises(InvalidValue, match="audience"):
        jwt.decode(token, certs=signer.certificates(), audience="https://elsewhere.example.com")
    with pytest.raises(MalformedError, match="Certificate"):
        jwt.decode(token, certs=Signer.generate().certificates(), audience=AUDIENCE)


def test_a_token_expires_after_an_hour(signer: Signer) -> None:
    token = signer.mint(EMAIL, AUDIENCE, issuer=ISSUER, now=SystemClock().now() - 3700)
    with pytest.raises(InvalidValue, match="expired"):
        jwt.decode(token, certs=signer.certificates(), audience=AUDIENCE)


def test_the_same_account_keeps_its_unique_id_and_others_have_theirs(signer: Signer) -> None:
    def subject(email: str) -> str:
        return str(jwt.decode(signer.mint(email, AUDIENCE, issuer=ISSUER, now=0), verify=False)["sub"])

    assert subject(EMAIL) == subject(EMAIL)
    assert subject(EMAIL) != subject("other@p.iam.gserviceaccount.com")


def test_a_key_read_back_from_its_pem_is_the_same_key(signer: Signer) -> None:
    again = Signer.from_pem(signer.pem)
    assert again.key_id == signer.key_id
    assert again.certificates() == signer.certificates()


def test_the_jwks_names_the_key_by_its_numbers(signer: Signer) -> None:
    (key,) = signer.jwks()["keys"]
    assert {name: key[name] for name in ("kty", "alg", "use", "kid", "e")} == {
        "kty": "RSA",
        "alg": "RS256",
        "use": "sig",
        "kid": signer.key_id,
        "e": "AQAB",
    }
    assert len(key["n"]) == 342


def test_only_an_rsa_key_can_sign() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(TypeError, match="must be an RSA key"):
        Signer.from_pem(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def test_a_token_is_reused_for_its_account_and_audience() -> None:
    clock, minted = ManualClock(), []

    def mint(email: str, audience: str) -> str:
        minted.append((email, audience))
        return f"token {len(minted)}"

    tokens = ReusedTokens(mint, clock)
    assert [tokens.get(*of) for of in ("ax", "ay", "bx", "ax")] == ["token 1", "token 2", "token 3", "token 1"]
    clock.advance(REUSE_SECONDS - 1)
    assert tokens.get("a", "x") == "token 1"
    clock.advance(1)
    assert tokens.get("a", "x") == "token 4"
    assert tokens.get("a", "x") == "token 4"


def test_reused_tokens_are_bounded() -> None:
    tokens = ReusedTokens(lambda email, _: f"token of {email}", ManualClock())
    for number in range(5000):
        assert tokens.get(str(number), "x") == f"token of {number}"

    assert len(tokens._minted) <= 1024
