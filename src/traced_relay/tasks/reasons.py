"""Reasons why an attempt or a task ended: the blame of each, and which may be retried."""

from __future__ import annotations

from typing import Literal

Blame = Literal["caller", "downstream", "relay", "platform"]

BLAME: dict[str, Blame] = {
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

SAFE_STATUS_CODES = (429, 503)
IDEMPOTENT_STATUS_CODES = (408, 425, 429, 500, 502, 503, 504)

# The request was not sent, or was refused before it was processed: a retry repeats nothing.
SAFE_REASONS = frozenset({"connect_failed", "dns_failed", "auth_unavailable"})
IDEMPOTENT_REASONS = SAFE_REASONS | {
    *("timeout", "reset", "stale_connection", "incomplete_response", "interrupted", "worker_lost"),
}


def of_status(status_code: int) -> str | None:
    """The reason for a status code; None for 2xx (RFC 9110, section 15)."""
    if 200 <= status_code <= 299:
        return None
    if not 200 <= status_code <= 599:
        return "malformed_response"
    return "redirect" if 300 <= status_code <= 399 else f"http_{status_code}"


def blame(reason: str) -> Blame:
    """Who has to act on *reason*: the caller on a 4xx, unless it is one of IDEMPOTENT_STATUS_CODES."""
    if not reason.startswith("http_"):
        return BLAME[reason]
    status_code = int(reason.removeprefix("http_"))
    return "caller" if 400 <= status_code <= 499 and status_code not in IDEMPOTENT_STATUS_CODES else "downstream"
