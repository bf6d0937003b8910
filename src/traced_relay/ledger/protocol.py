"""
The stored state of all tasks: what a ledger does, whatever it is written on.

A row changes by compare-and-set on its revision; whatever is written together is there together or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from traced_relay.tasks.row import Row
    from traced_relay.tasks.state_machine import Holder

KEYS_KEPT = 31 * 86_400.0  # as long as Cloud Tasks keeps a task
WORKERS_KEPT = 7 * 86_400.0  # long after the last of a dead worker's calls has been judged
BEYOND_DIGITS = "g"  # sorts after every hexadecimal digit
FILTERS = ("kind", "state", "queue", "rule", "reason", "version", "caller")


@dataclass(frozen=True)
class Selection:
    """Which tasks a list shows; None leaves a question open. *since* is in seconds since the epoch."""

    kind: str = "call"
    state: str | None = None
    queue: str | None = None
    rule: str | None = None
    reason: str | None = None
    version: str | None = None
    caller: str | None = None
    since: float | None = None
    label: tuple[str, str] | None = None
    before: tuple[float, str] | None = None  # created_at and task_id of the row that the page follows


@dataclass(frozen=True)
class Tally:
    """
    How things stand: tasks that wait for longer than they should, tasks that run, callbacks still to be delivered.

    The oldest are moments in seconds since the epoch, None where there is none.
    """

    overdue: int
    oldest_overdue_at: float | None
    running: int
    callbacks_pending: int
    oldest_callback_at: float | None


class Ledger(Protocol):
    """
    Rows by their task's id. Every method raises Unavailable where the store does not do what is asked.

    The store's own clock decides who is alive. A ledger keeps a row and its
    callback's `retention` seconds after both have ended, and forgets them when
    `expire` is called, or by itself.
    """

    def insert(self, row: Row) -> bool:
        """Write a new row; False if the task has one already."""

    def get(self, task_id: str) -> Row | None:
        """The row with its bodies."""

    def starting_with(self, prefix: str, limit: int) -> list[Row]:
        """Up to *limit* rows whose ids begin with *prefix*, hexadecimal digits, in the ids' order; without bodies."""

    def get_many(self, task_ids: Sequence[str]) -> dict[str, Row]:
        """Those of the rows that there are, without bodies."""

    def replace(self, row: Row, *, callback: Row | None = None) -> bool:
        """
        Write the changed *row* over the revision before it; False if another change came first.

        A new row for the *callback* of its end is written with it. A callback's
        own end, or its new beginning, is told to its call's row, if that is in
        the same round still (`callback_ended_at`).
        """

    def note(self, task_id: str, attempt: int) -> None:
        """Remember that Cloud Tasks has answered for the task of *attempt*; no other change is in its way."""

    def remove(self, row: Row) -> bool:
        """Forget a row that nobody was told of; False if it has changed since, or its task is known to be there."""

    def remember_key(self, task_id: str, use: str) -> str:
        """Keep what a key is used for where no row says it, unless it was used before; the first *use*."""

    def select(self, selection: Selection, limit: int) -> list[Row]:
        """Up to *limit* rows, newest first, without bodies."""

    def overdue(self, before: float, limit: int, *, after: tuple[float, str] | None = None) -> list[Row]:
        """Rows without bodies that await a dispatch due *before* then, by time and id, *after* such a place."""

    def abandoned(self, limit: int) -> list[Row]:
        """Running rows, without bodies, whose worker has stopped or is believed dead."""

    def tally(self, overdue_before: float) -> Tally:
        """Count what is running, and what awaits a dispatch that was due before then."""

    def keep_alive(self, worker: str, seconds: float) -> list[str]:
        """
        Let *worker* hold what it runs for the given *seconds* from now, unless it has stopped.

        Answers with the attempts that it was asked to cut, by their names, once.
        """

    def abort(self, worker: str, attempt_name: str) -> None:
        """Ask *worker* to end the call of that attempt; it learns of it at its next sign of life."""

    def stop(self, worker: str, unsent: Sequence[str]) -> None:
        """Note that *worker* works no more, and of which attempts (by name) nothing had been sent yet."""

    def holder_of(self, row: Row) -> Holder:
        """What became of the worker that runs *row*, by this ledger's clock."""

    def heartbeats(self, workers: Collection[str]) -> dict[str, float]:
        """When each of the *workers* was last seen, in seconds since the epoch; those that are known."""

    def expire(self, limit: int) -> int:
        """Forget up to *limit* rows whose time is over; how many there were."""

    def close(self) -> None:
        """Let go of the store."""
