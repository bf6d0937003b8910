"""Serialization of rows for every ledger: a JSON document, the bodies beside it, and the columns for queries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from traced_relay.errors import Unavailable
from traced_relay.ledger.protocol import FILTERS
from traced_relay.tasks.row import Row

if TYPE_CHECKING:
    from collections.abc import Iterable

# Bodies are stored apart, since every change rewrites the document, and so are fields that change on their own.
_APART: Any = {"call": {"body"}, "response": {"body"}, "noted_attempt": True, "callback_ended_at": True}
STORED = ("document", "noted_attempt", "callback_ended_at")
_FOUND_BY = (*FILTERS, "next_attempt_at", "worker", "round", "callback_ended_at", "revision")


def columns_of(row: Row) -> dict[str, Any]:
    """The columns that every change of the row rewrites: those for queries, and the *document*."""
    return {name: getattr(row, name) for name in _FOUND_BY} | {"document": row.model_dump_json(exclude=_APART)}


def row_of(stored: Iterable[Any], body: bytes = b"", response_body: bytes = b"") -> Row:
    """The row from its *stored* values of STORED; *body* is the call's, *response_body* the response's."""
    document, noted_attempt, callback_ended_at = stored
    try:
        row = Row.model_validate_json(document, extra="ignore")
    except ValidationError as exc:
        raise Unavailable(
            f"the ledger contains a row that this version cannot read: {exc.error_count()} problems"
        ) from exc
    changes: dict[str, Any] = {"noted_attempt": noted_attempt, "callback_ended_at": callback_ended_at}
    if body:
        changes["call"] = row.call.model_copy(update={"body": body})
    if row.response and response_body:
        changes["response"] = row.response.model_copy(update={"body": response_body})
    return row.model_copy(update=changes)
