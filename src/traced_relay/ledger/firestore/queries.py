"""Every query that the ledger sends to Firestore; each has a built-in index or one in firestore.indexes.json."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from google.cloud.firestore import FieldFilter, Query

from traced_relay.ledger.protocol import BEYOND_DIGITS, FILTERS
from traced_relay.ledger.row_codec import STORED

if TYPE_CHECKING:
    from traced_relay.ledger.protocol import Selection

_NO_DOCUMENT = "-"  # replaces a name that no document can have
_BEGINNING = 0.0


def document(collection: Any, name: str) -> Any:
    """The document of that *name*, which may come from a request."""
    return collection.document(name if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,499}", name) else _NO_DOCUMENT)


def label(name: str, value: str) -> str:
    """A label as one value; neither part contains control characters."""
    return f"{name}\n{value}"


def moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def selected(tasks: Any, selection: Selection) -> Any:
    query = tasks.select(STORED)
    for name in FILTERS:
        value = getattr(selection, name)
        query = query if value is None else _where(query, name, "==", value)
    if selection.label:
        query = _where(query, "labels", "array_contains", label(*selection.label))
    for field in ("created_at", "__name__"):
        query = query.order_by(field, direction=Query.DESCENDING)
    if selection.since is not None:
        query = query.end_at([selection.since])  # not a filter: Firestore merges indexes for equalities only
    return query if selection.before is None else _after(query, tasks, "created_at", selection.before)


def starting_with(tasks: Any, prefix: str, after: str) -> Any:
    """Rows by their names alone: that index is built in, one with the caller is not."""
    comparison = (">", document(tasks, after)) if after else (">=", document(tasks, prefix))
    query = _where(tasks.select(STORED), "__name__", *comparison).order_by("__name__")
    return _where(query, "__name__", "<", document(tasks, prefix + BEYOND_DIGITS))


def overdue(tasks: Any, before: float, after: tuple[float, str] | None) -> Any:
    query = late(tasks, before).select(STORED).order_by("next_attempt_at").order_by("__name__")
    return query if after is None else _after(query, tasks, "next_attempt_at", after)


def late(tasks: Any, before: float) -> Any:
    return _where(tasks, "next_attempt_at", "<", before)


def undelivered(tasks: Any) -> Any:
    """Callbacks that have not ended: only they have a value in this field."""
    return _where(tasks, "callback_due_since", ">=", _BEGINNING)


def running(tasks: Any) -> Any:
    return _where(tasks, "worker", ">", "")


def run_between(tasks: Any, low: str, high: str | None) -> Any:
    """Rows whose worker's name is between *low* and *high*."""
    query = _where(tasks.select(STORED), "worker", ">", low).order_by("worker")
    return query if high is None else _where(query, "worker", "<", high)


def unstopped(workers: Any) -> Any:
    return _where(workers, "stopped", "==", value=False)


def oldest(collection: Any, field: str, until: float | None = None) -> Any:
    """Documents with a time in *field*, the oldest first."""
    query = _where(collection.select([field, "body_apart"]), field, ">", moment(_BEGINNING)).order_by(field)
    return query if until is None else _where(query, field, "<=", moment(until))


def _where(query: Any, field: str, operator: str, value: Any) -> Any:
    return query.where(filter=FieldFilter(field, operator, value))


def _after(query: Any, tasks: Any, field: str, last: tuple[float, str]) -> Any:
    return query.start_after({field: last[0], "__name__": document(tasks, last[1])})
