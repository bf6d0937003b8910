"""
The queries of lists in SQLite: each goes through one index, in its order, from page to page.

The planner has no choice: INDEXED BY names the index, and the order is the index's own, so that it sorts nothing.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from traced_relay.ledger.protocol import BEYOND_DIGITS, COUNTED, Page
from traced_relay.ledger.row_codec import STORED, row_of
from traced_relay.ledger.sqlite_file import LISTED_BY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from traced_relay.ledger.protocol import Position, Selection
    from traced_relay.ledger.sqlite_file import Connections
    from traced_relay.tasks.row import Row

_STORED = ", ".join(f"tasks.{name}" for name in STORED)
_NEWEST: Position = (float("inf"), "")
_BY_ID = f"SELECT {_STORED} FROM tasks WHERE"  # noqa: S608  (no value of a request is in a text of this file)

# A query uses the index of the first filter whose rows end within the bound; if none do, that of the first filter. The
# caller's is the first, so that a page token only names the caller's own tasks.
_INDEXED = ("caller", "label", *(name for name in LISTED_BY if name != "caller"))

IN_AGE = ("queue", "rule")  # parts of the index by age, which rejects rows without reading them

OVERDUE = (
    f"SELECT {_STORED} FROM tasks INDEXED BY tasks_by_time"  # noqa: S608
    " WHERE next_attempt_at IS NOT NULL AND next_attempt_at < ? AND (next_attempt_at, task_id) > (?, ?)"
    " ORDER BY next_attempt_at, task_id LIMIT ?"
)
ABANDONED = (
    f"SELECT {_STORED} FROM tasks INDEXED BY tasks_by_state"  # noqa: S608
    " WHERE kind IN ('call', 'callback') AND state = 'running' AND worker NOT IN"
    " (SELECT worker FROM workers WHERE unsent IS NULL AND alive_until > ?) LIMIT ?"
)
_LATE = "FROM tasks INDEXED BY tasks_by_time WHERE next_attempt_at IS NOT NULL AND next_attempt_at < ?1"
_PENDING = "FROM tasks INDEXED BY tasks_by_state WHERE kind = 'callback' AND state"
_OLDEST_PENDING = " UNION ALL ".join(  # each is one step in the index
    f"SELECT MIN(created_at) AS oldest {_PENDING} = '{state}'" for state in ("queued", "running", "waiting")
)
COUNT_OVERDUE = (
    f"SELECT (SELECT COUNT(*) FROM (SELECT 1 {_LATE} LIMIT {COUNTED})), (SELECT MIN(next_attempt_at) {_LATE})"  # noqa: S608
)
COUNT_RUNNING = (
    "SELECT COUNT(*) FROM tasks INDEXED BY tasks_by_state WHERE kind IN ('call', 'callback') AND state = 'running'"
)
COUNT_CALLBACKS = (
    f"SELECT (SELECT COUNT(*) FROM (SELECT 1 {_PENDING} IN ('queued', 'running', 'waiting') LIMIT {COUNTED})),"  # noqa: S608
    f" (SELECT MIN(oldest) FROM ({_OLDEST_PENDING}))"
)
STARTING_WITH = f"{_BY_ID} task_id >= ? AND task_id > ? AND task_id < ? ORDER BY task_id LIMIT ?"


def select(connections: Connections, selection: Selection, limit: int, examined: int) -> Page:
    """The page of at most *limit* rows after *examined* rows at most."""
    given = {name: getattr(selection, name) for name in (*_INDEXED, *IN_AGE) if getattr(selection, name) is not None}
    values = {"kind": selection.kind, "limit": limit + 1, "last": examined - 1, **given}
    values["before"], values["before_id"] = selection.before or _NEWEST
    values["end"], values["end_id"] = float("-inf") if selection.since is None else selection.since, ""
    if selection.label:
        values["label"], values["value"] = selection.label
    indexes = [name for name in given if name not in IN_AGE] or ["age"]
    index, end = indexes[0], None
    if given.keys() - {index}:  # else the index has no row that a filter rejects
        index, end = _best(connections, values, indexes)
    if end is not None:
        values["end"], values["end_id"] = end
    rows = rows_of(connections.read(page_query(index, tuple(name for name in given if name != index)), values))
    if len(rows) > limit:
        end = rows[limit - 1].created_at, rows[limit - 1].task_id
    return Page(rows[:limit], end)


def _best(connections: Connections, values: dict[str, Any], indexes: list[str]) -> tuple[str, Position | None]:
    """An index, and the last row that may be examined in it; None if its rows end before."""
    ends: list[Position] = []
    for index in indexes:
        found = connections.read(end_query(index), values)
        if not found:
            return index, None
        ends += found
    return indexes[0], ends[0]


def starting_with(connections: Connections, prefix: str, limit: int, after: str) -> list[Row]:
    return rows_of(connections.read(STARTING_WITH, (prefix, after, prefix + BEYOND_DIGITS, limit)))


def get_many(connections: Connections, task_ids: Sequence[str]) -> dict[str, Row]:
    found = connections.read(f"{_BY_ID} task_id IN ({', '.join('?' * len(task_ids))})", task_ids)
    return {row.task_id: row for row in rows_of(found)}


def rows_of(found: list[Any]) -> list[Row]:
    return [row_of(stored) for stored in found]


@cache
def end_query(index: str) -> str:
    table, where = _range(index)
    return f"SELECT created_at, task_id {where} ORDER BY {_order(table)} LIMIT 1 OFFSET :last"


@cache
def page_query(index: str, others: tuple[str, ...]) -> str:
    table, where = _range(index, " CROSS JOIN tasks ON tasks.task_id = labels.task_id" if index == "label" else "")
    labelled = "EXISTS (SELECT 1 FROM labels WHERE task_id = tasks.task_id AND name = :label AND value = :value)"
    rest = "".join(f" AND {labelled if name == 'label' else f'tasks.{name} = :{name}'}" for name in others)
    return f"SELECT {_STORED} {where}{rest} ORDER BY {_order(table)} LIMIT :limit"


def _range(index: str, joined: str = "") -> tuple[str, str]:
    """The table of the *index*, and the rows in it between the two ends."""
    table = "labels" if index == "label" else "tasks"
    name = "labels_by_age" if index == "label" else f"tasks_by_{index}"
    equal = {"label": "name = :label AND value = :value AND ", "age": ""}.get(index, f"{index} = :{index} AND ")
    position = f"({table}.created_at, {table}.task_id)"
    return table, (
        f"FROM {table} INDEXED BY {name}{joined} WHERE {equal}{table}.kind = :kind"
        f" AND {position} < (:before, :before_id) AND {position} >= (:end, :end_id)"
    )


def _order(table: str) -> str:
    return f"{table}.created_at DESC, {table}.task_id DESC"
