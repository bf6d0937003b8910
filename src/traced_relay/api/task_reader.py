"""Tasks read from the ledger and shown as documents, each only to principals that may see it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from traced_relay.api import listing
from traced_relay.errors import FieldError, NotFound
from traced_relay.formats import validation
from traced_relay.tasks import status_document
from traced_relay.tasks.ids import callback_id
from traced_relay.tasks.status_document import Context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from traced_relay.api.list_pacing import ListPacer
    from traced_relay.ledger.protocol import Ledger
    from traced_relay.relay.policy import Principal
    from traced_relay.runtime.clock import Clock
    from traced_relay.tasks.api_types import Status, TaskList
    from traced_relay.tasks.row import Row
    from traced_relay.tasks.status_document import Links

ID_LENGTH, MIN_ID_PREFIX = 32, 4  # hexadecimal digits
PREFIX_BATCH, MAX_PREFIX_BATCHES = 50, 10  # rows read to resolve a short id


@dataclass(frozen=True, kw_only=True)
class TaskReader:
    """
    *retention* is in seconds; *links* are made for the host of the current request.

    *pacer* limits what reads many rows: lists, and the search for a short id.
    """

    ledger: Ledger
    clock: Clock
    retention: float
    pacer: ListPacer
    links: Callable[[], Links]

    def find(self, task_id: str, principal: Principal) -> Row:
        """The row with this id, which may be short; NotFound also for a task that the *principal* may not see."""
        row = None
        if re.fullmatch(r"[0-9a-fA-F]{1,32}", task_id):
            row = self.ledger.get(self._full_id(task_id.lower(), principal))
        if row is None or not _may_see(principal, row):
            raise NotFound(f"there is no task {task_id[:40]!a} that you may see")
        return row

    def _full_id(self, task_id: str, principal: Principal) -> str:
        if len(task_id) == ID_LENGTH:
            return task_id
        if len(task_id) < MIN_ID_PREFIX:
            message = f"must have at least {MIN_ID_PREFIX} digits, got {task_id!a}"
            raise validation.invalid_call([FieldError("task_id", message)])
        with self.pacer.turn(principal.name):
            return self._matching_id(task_id, principal)

    def _matching_id(self, task_id: str, principal: Principal) -> str:
        """The only id with this prefix among those that the *principal* may see; without one *task_id* itself."""
        ids: list[str] = []
        after = ""
        for _ in range(MAX_PREFIX_BATCHES):
            rows = self.ledger.starting_with(task_id, PREFIX_BATCH, after=after)
            ids += [row.task_id for row in rows if _may_see(principal, row)]
            if len(ids) > 1:
                listed = ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")
                message = f"{task_id!a} matches several tasks; give more digits: {listed}"
                raise validation.invalid_call([FieldError("task_id", message)])
            if len(rows) < PREFIX_BATCH:
                return ids[0] if ids else task_id
            after = rows[-1].task_id
        return task_id  # unknown: any other response would show that others' tasks exist

    def status(self, row: Row) -> Status:
        (context,) = self._contexts([row])
        return status_document.status(row, context)

    def page(self, query: Iterable[tuple[str, str]], principal: Principal) -> TaskList:
        """A page of the tasks that the *principal* may see; InvalidCall for a wrong *query*."""
        caller = None if principal.is_operator else principal.name
        selection, limit = listing.parse(query, caller=caller, now=self.clock.now())
        page = self.ledger.select(selection, limit)
        return {
            "tasks": list(map(status_document.summary, page.rows, self._contexts(page.rows))),
            "next_page_token": None if page.after is None else listing.page_token(page.after),
        }

    def _contexts(self, rows: Sequence[Row]) -> list[Context]:
        """What the document of each row needs besides: two reads of the ledger for all of them."""
        heartbeats = self.ledger.heartbeats({row.worker for row in rows if row.worker is not None})
        callbacks = self.ledger.get_many([callback_id(row.task_id, row.round) for row in rows if row.wants_callback])
        links, now = self.links(), self.clock.now()
        return [
            Context(
                links=links,
                now=now,
                retention=self.retention,
                heartbeat_at=heartbeats.get(row.worker or ""),
                callback=callbacks.get(callback_id(row.task_id, row.round)),
            )
            for row in rows
        ]


def _may_see(principal: Principal, row: Row) -> bool:
    return row.kind != "direct" and (principal.is_operator or row.caller == principal.name)
