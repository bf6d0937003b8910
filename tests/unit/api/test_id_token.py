"""What is remembered of a verified token, and what ends it."""

from __future__ import annotations

import pytest

from traced_relay.api.id_token import MAX_SIGNED, SKEW, Verifier
from traced_relay.emulator.id_tokens import LIFETIME, Signer
from traced_relay.errors import NotAuthorized

AUDIENCE, ISSUER, NOW = "https://relay.example.com", "https://accounts.google.com", 1_790_000_000
SIGNER, OTHER = Signer.generate(), Signer.generate()


def minted(email: str = "a@example.com", audience: str = AUDIENCE, signer: Signer = SIGNER) -> str:
    return signer.mint(email, audience, issuer=ISSUER, now=NOW)


def verifier(keys: dict[str, str], most: int = MAX_SIGNED) -> Verifier:
    return Verifier(lambda _: keys, audience=AUDIENCE, issuers=(ISSUER,), most=most)


def reason(tokens: Verifier, token: str, now: float = NOW) -> str:
    with pytest.raises(NotAuthorized) as refused:
        tokens.verify(token, now)
    return refused.value.reason


def test_a_token_is_verified_once_and_its_claims_are_kept() -> None:
    tokens, token = verifier(SIGNER.certificates()), minted()
    assert tokens.verify(token, NOW) is tokens.verify(token, NOW + 60)
    assert len(tokens) == 1


def test_a_revoked_key_ends_the_tokens_it_signed() -> None:
    keys, token = SIGNER.certificates() | OTHER.certificates(), minted()
    tokens = verifier(keys)
    tokens.verify(token, NOW)
    del keys[SIGNER.key_id]
    assert reason(tokens, token) == "unknown_key"
    assert len(tokens) == 0


def test_a_replaced_key_ends_the_tokens_it_signed() -> None:
    keys, token = SIGNER.certificates(), minted()
    tokens = verifier(keys)
    tokens.verify(token, NOW)
    keys[SIGNER.key_id] = OTHER.certificates()[OTHER.key_id]
    assert reason(tokens, token) == "bad_signature"


def test_a_remembered_token_expires() -> None:
    tokens, token = verifier(SIGNER.certificates()), minted()
    tokens.verify(token, NOW + LIFETIME + SKEW)
    assert reason(tokens, token, NOW + LIFETIME + SKEW + 1) == "expired"
    assert len(tokens) == 0


def test_a_refused_token_is_not_remembered() -> None:
    tokens = verifier(SIGNER.certificates())
    refused = [minted(audience="https://elsewhere.example"), minted(signer=OTHER), f"{minted()[:-6]}AAAAAA", "x"]
    assert [reason(tokens, token) for token in refused] == [
        "wrong_audience",
        "unknown_key",
        "bad_signature",
        "malformed_token",
    ]
    assert len(tokens) == 0


def test_the_least_recently_used_token_is_forgotten_first() -> None:
    signed = [minted(f"a{number}@example.com") for number in range(3)]
    tokens = verifier(SIGNER.certificates(), most=2)
    first, second, third = (tokens.verify(token, NOW) for token in (signed[0], signed[1], signed[0]))
    assert first is third
    tokens.verify(signed[2], NOW)
    assert len(tokens) == 2
    assert tokens.verify(signed[0], NOW) is first
    assert tokens.verify(signed[1], NOW) is not second
