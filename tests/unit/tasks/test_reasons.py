from __future__ import annotations

import pytest

from traced_relay.tasks import reasons

EVERY_REASON = {
    *("timeout", "connect_failed", "dns_failed", "tls_failed", "reset", "incomplete_response", "malformed_response"),
    "stale_connection",
    *("redirect", "denied", "auth_unavailable", "interrupted", "worker_lost", "expired", "removed", "cancelled"),
}


@pytest.mark.parametrize(
    ("status_code", "reason"),
    [
        (200, None),
        (204, None),
        (299, None),
        (300, "redirect"),
        (302, "redirect"),
        (399, "redirect"),
        (199, "malformed_response"),
        (400, "http_400"),
        (404, "http_404"),
        (599, "http_599"),
        (101, "malformed_response"),
        (429, "http_429"),
        (503, "http_503"),
        (600, "malformed_response"),
        (999, "malformed_response"),
    ],
)
def test_only_2xx_gives_no_reason(status_code: int, reason: str | None) -> None:
    assert reasons.of_status(status_code) == reason


def test_every_reason_has_its_blame() -> None:
    assert reasons.BLAME == {
        "timeout": "downstream",
        "connect_failed": "downstream",
        "dns_failed": "downstream",
        "tls_failed": "downstream",
        "reset": "downstream",
        "stale_connection": "platform",
        "incomplete_response": "downstream",
        "malformed_response": "downstream",
        "redirect": "caller",
        "denied": "caller",
        "auth_unavailable": "platform",
        "interrupted": "platform",
        "worker_lost": "platform",
        "expired": "relay",
        "removed": "platform",
        "cancelled": "caller",
    }
    assert reasons.BLAME.keys() == EVERY_REASON
    assert reasons.IDEMPOTENT_REASONS < EVERY_REASON


@pytest.mark.parametrize(
    ("reason", "blame"),
    [
        ("http_400", "caller"),
        ("http_401", "caller"),
        ("http_404", "caller"),
        ("http_408", "downstream"),
        ("http_425", "downstream"),
        ("http_429", "downstream"),
        ("http_500", "downstream"),
        ("http_501", "downstream"),
        ("http_503", "downstream"),
        ("timeout", "downstream"),
        ("denied", "caller"),
        ("worker_lost", "platform"),
    ],
)
def test_a_4xx_is_the_callers_unless_it_is_retryable(reason: str, blame: str) -> None:
    assert reasons.blame(reason) == blame
