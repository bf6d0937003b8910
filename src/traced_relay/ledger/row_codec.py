"""How every ledger writes a row down: a document of text, bodies apart from it, and the values it is found by."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from traced_relay.errors import Unavailable
from traced_relay.ledger.protocol import FILTERS
from traced_relay.tasks.row import Row

# Bytes are kept apart from what is written with every change, and so is what changes by itself.
_APART: Any = {"call": {"body"}, "response": {"body"}, "noted_attempt": True, "callback_ended_at": True}
_FOUND_BY = (*FILTERS, "next_attempt_at", "worker", "round", "callback_ended_at", "revision")


def columns_of(row: Row) -> dict[str, Any]:
    """What is written anew with every change of the row: what it is found by, and the *document*."""
    return {name: getattr(row, name) for name in _FOUND_BY} | {"document": row.model_dump_json(exclude=_APART)}


def row_of(
    document: str, *, noted_attempt: int, callback_ended_at: float | None, body: bytes = b"", answer: bytes = b""
) -> Row:
    """The row again; *body* is the call's, *answer* the response's, where there is one."""
    try:
        row = Row.model_validate_json(document, extra="ignore")
    except ValidationError as exc:
        raise Unavailable(f"the ledger holds a row this version cannot read: {exc.error_count()} problems") from exc
    changes: dict[str, Any] = {"noted_attempt": noted_attempt, "callback_ended_at": callback_ended_at}
    if body:
        changes["call"] = row.call.model_copy(update={"body": body})
    if row.response and answer:
        changes["response"] = row.response.model_copy(update={"body": answer})
    return row.model_copy(update=changes)
