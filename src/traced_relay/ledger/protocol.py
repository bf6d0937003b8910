"""
The stored state of all tasks: the interface of the SQLite and the Firestore ledger.

A row changes by compare-and-set on its revision; one method's writes are atomic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from traced_relay.tasks.row import Row
    from traced_relay.tasks.state_machine import Holder

WORKERS_KEPT = 7 * 86_400.0  # long after the calls of a dead worker were judged
BEYOND_DIGITS = "g"  # sorts after every hexadecimal digit
EXAMINED = 10_000  # rows that one select examines when its filters reject them
COUNTED = 10_000  # rows at which a tally may stop counting
FILTERS = ("kind", "state", "queue", "rule", "reason", "version", "caller")

Position = tuple[float, str]  # created_at and task_id of a row in a list


@dataclass(frozen=True)
class Selection:
    """Filters of a list; None selects all. *since* is in seconds since the epoch."""

    kind: str = "call"
    state: str | None = None
    queue: str | None = None
    rule: str | None = None
    reason: str | None = None
    version: str | None = None
    caller: str | None = None
    since: float | None = None
    label: tuple[str, str] | None = None
    before: Position | None = None  # the row before the page


@dataclass(frozen=True)
class Page:
    """*rows* and the position after which the list continues; None at its end. Any page may be short, even empty."""

    rows: list[Row]
    after: Position | None


@dataclass(frozen=True)
class Tally:
    """
    Counts of overdue tasks, running tasks and pending callbacks.

    *overdue* and *callbacks_pending* may be COUNTED if there are more. The oldest of all are in seconds since the
    epoch, None if there are none.
    """

    overdue: int
    oldest_overdue_at: float | None
    running: int
    callbacks_pending: int
    oldest_callback_at: float | None


class Ledger(Protocol):
    """
    Rows by their task's id. Every method raises Unavailable if the store cannot do it.

    The store's own clock decides which workers are alive. A row is kept `retention` seconds after it and its callback
    have ended; `expire` deletes it, or the store itself.
    """

    def insert(self, row: Row) -> bool:
        """Write a new row; False if the task has one already."""

    def get(self, task_id: str) -> Row | None:
        """The row with its bodies."""

    def starting_with(self, prefix: str, limit: int, *, after: str = "") -> list[Row]:
        """Up to *limit* rows whose ids start with *prefix*, hexadecimal digits, by id *after* this one; no bodies."""

    def get_many(self, task_ids: Sequence[str]) -> dict[str, Row]:
        """The existing ones of these rows, without bodies."""

    def replace(self, row: Row, *, callback: Row | None = None) -> bool:
        """
        Write the changed *row* over the revision before it; False if another change came first.

        Inserts the row of its *callback* with it. When *row* is a callback that has ended, or was started again, also
        sets `callback_ended_at` of its call's row, if that is still in the same round.
        """

    def note(self, task_id: str, attempt: int) -> bool:
        """Record that the task of *attempt* exists; True for a row's first note. Conflicts with no change."""

    def note_soon(self, task_id: str, attempt: int, when_first: Callable[[], None]) -> None:
        """The same with the next change or 50 ms later; calls *when_first* once a row's first note is written."""

    def remove(self, row: Row) -> bool:
        """Delete a row whose task was not created; False if it has changed since, or its task is noted."""

    def select(self, selection: Selection, limit: int) -> Page:
        """Up to *limit* rows, newest first, without bodies; fewer if the query has examined EXAMINED rows."""

    def overdue(self, before: float, limit: int, *, after: tuple[float, str] | None = None) -> list[Row]:
        """Rows that await a dispatch due *before* then, ordered by due time and id, *after* those; without bodies."""

    def abandoned(self, limit: int) -> list[Row]:
        """Running rows whose worker has stopped or lost its lease, without bodies."""

    def tally(self, overdue_before: float) -> Tally:
        """Count running tasks, pending callbacks, and tasks that await a dispatch due before then."""

    def keep_alive(self, worker: str, seconds: float) -> list[str]:
        """
        Extend the lease of *worker* to *seconds* from now, unless it has stopped.

        Returns the names of the attempts that it has been asked to abort, each once.
        """

    def abort(self, worker: str, attempt_name: str) -> None:
        """Ask *worker* to abort the call of that attempt when it next renews its lease."""

    def stop(self, worker: str, unsent: Sequence[str]) -> None:
        """Record that *worker* has stopped, and the names of its attempts of which nothing was sent."""

    def holder_of(self, row: Row) -> Holder:
        """Status of the worker that runs *row*, by this ledger's clock."""

    def heartbeats(self, workers: Collection[str]) -> dict[str, float]:
        """When each of the known *workers* last renewed its lease, in seconds since the epoch."""

    def expire(self, limit: int) -> int:
        """Delete up to *limit* expired rows; returns their number."""

    def close(self) -> None:
        """Close the store."""
