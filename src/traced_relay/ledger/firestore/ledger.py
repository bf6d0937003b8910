"""
The ledger in Google Cloud Firestore: one document per task, changed by compare-and-set.

Firestore's own clock decides which workers are alive. Every composite index is listed in firestore.indexes.json.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from google.api_core.exceptions import AlreadyExists
from google.cloud.firestore import Increment, LastUpdateOption, Maximum

from traced_relay.errors import Unavailable
from traced_relay.ledger.firestore import queries
from traced_relay.ledger.firestore.queries import document, label, moment
from traced_relay.ledger.firestore.requests import Database
from traced_relay.ledger.firestore.workers import WorkerLeases
from traced_relay.ledger.protocol import WORKERS_KEPT, Page, Tally
from traced_relay.ledger.row_codec import STORED, columns_of, row_of
from traced_relay.tasks.states import ENDED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from traced_relay.ledger.firestore.requests import Requests
    from traced_relay.ledger.protocol import Selection
    from traced_relay.runtime.clock import Clock
    from traced_relay.tasks.row import Row

# Bytes of a call's body. A document is limited to 1 MiB, and contains the response and a hundred attempts, too.
LARGEST_WITH_ROW = 400_000
BODY_OUTLIVES = timedelta(days=7)  # Firestore deletes expired documents in any order, and up to a day late

_MARGIN = 10.0  # seconds, so that nothing is deleted while a request still relies on it
_COMPARED = ("revision", "round", "state", "noted_attempt", "callback_ended_at", "expires_at", "body_apart")


class FirestoreLedger(WorkerLeases):
    """
    Rows in *collection* of one database; bodies and workers in collections named after it.

    *clock* replaces Firestore's own, for tests.
    """

    def __init__(
        self,
        project: str,
        database: str,
        collection: str,
        *,
        retention: float = 7 * 86_400.0,
        clock: Clock | None = None,
    ) -> None:
        self._retention = retention
        opened = Database(project, database, clock)
        super().__init__(opened, opened.client.collection(f"{collection}-workers"))
        self._tasks = opened.client.collection(collection)
        self._bodies = opened.client.collection(f"{collection}-bodies")

    def close(self) -> None:
        self._database.close()

    def insert(self, row: Row) -> bool:
        with self._database.requests() as requests:
            batch = self._batch()
            self._create(batch, row)
            return requests.commit(batch, unless=AlreadyExists)

    def _create(self, batch: Any, row: Row) -> None:
        body, apart = row.call.body, len(row.call.body) > LARGEST_WITH_ROW
        new = self._columns(row) | {
            "created_at": row.created_at,
            "labels": [label(*given) for given in row.call.labels.items()],
            "noted_attempt": row.noted_attempt,
            "notes": min(row.noted_attempt, 1),
            "body": b"" if apart else body,
            "body_apart": apart,
            "answer": b"",
        }
        batch.create(document(self._tasks, row.task_id), new)
        if apart:
            batch.create(document(self._bodies, row.task_id), {"body": body})

    def get(self, task_id: str) -> Row | None:
        with self._database.requests() as requests:
            found = requests.read([document(self._tasks, task_id)]).get(task_id)
            if found is None:
                return None
            body = found.get("body")
            if found.get("body_apart"):
                apart = requests.read([document(self._bodies, task_id)]).get(task_id)
                if apart is None:
                    raise Unavailable("the ledger contains a row without its call's body")
                body = apart.get("body")
            return _row(found, body, found.get("answer"))

    def starting_with(self, prefix: str, limit: int, *, after: str = "") -> list[Row]:
        return self._rows(queries.starting_with(self._tasks, prefix, after), limit)

    def get_many(self, task_ids: Sequence[str]) -> dict[str, Row]:
        if not task_ids:
            return {}
        with self._database.requests() as requests:
            found = requests.read([document(self._tasks, task_id) for task_id in task_ids], STORED)
            return {task_id: _row(found[task_id]) for task_id in task_ids if task_id in found}

    def replace(self, row: Row, *, callback: Row | None = None) -> bool:
        concerned = [row.task_id, row.callback_of, callback.task_id if callback else None]
        documents = [document(self._tasks, task_id) for task_id in concerned if task_id is not None]
        with self._database.requests() as requests:
            while True:  # until the time of one method is up: fields that change on their own cause no conflict
                found = requests.read(documents, _COMPARED)
                own = found.get(row.task_id)
                if own is None or own.get("revision") != row.revision - 1:
                    return False
                batch = self._batch()
                self._update(batch, own, self._columns(row) | ({"answer": row.response.body} if row.response else {}))
                if row.callback_of in found:
                    self._set_callback_ended(batch, row, found[row.callback_of])
                if callback is not None and callback.task_id not in found:
                    self._create(batch, callback)
                if requests.commit(batch):
                    return True

    def _set_callback_ended(self, batch: Any, row: Row, call: Any) -> None:
        """Write the end of the callback *row*, or its new start, to its *call*, unless that has started a new round."""
        is_same_round = call.get("round") == row.callback_round and call.get("state") in ENDED
        if not is_same_round or call.get("callback_ended_at") == row.finished_at:
            return
        expires_at = moment(row.expires_at(self._retention))  # the call expires when its callback does
        self._update(batch, call, {"callback_ended_at": row.finished_at, "expires_at": expires_at})

    def _update(self, batch: Any, stored: Any, changes: dict[str, Any]) -> None:
        """Write the *changes* of a row, and the end of its body if that is apart and changes with them."""
        batch.update(stored.reference, changes, LastUpdateOption(stored.update_time))
        expires_at = changes["expires_at"]
        if stored.get("body_apart") and stored.get("expires_at") != expires_at:
            later = None if expires_at is None else expires_at + BODY_OUTLIVES
            batch.update(document(self._bodies, stored.id), {"expires_at": later})

    def _columns(self, row: Row) -> dict[str, Any]:
        awaits_delivery = row.kind == "callback" and not row.has_ended
        return columns_of(row) | {
            "expires_at": moment(row.expires_at(self._retention)),
            "callback_due_since": row.created_at if awaits_delivery else None,
        }

    def note(self, task_id: str, attempt: int) -> bool:
        """The counter `notes` is 1 after the first note; new values are returned in the order of the fields' names."""
        with self._database.requests() as requests:
            batch = self._batch()
            batch.update(document(self._tasks, task_id), {"noted_attempt": Maximum(attempt), "notes": Increment(1)})
            return requests.commit(batch) and batch.write_results[0].transform_results[-1].integer_value == 1

    def note_soon(self, task_id: str, attempt: int, when_first: Callable[[], None]) -> None:
        if self.note(task_id, attempt):
            when_first()

    def remove(self, row: Row) -> bool:
        with self._database.requests() as requests:
            found = requests.read([document(self._tasks, row.task_id)], _COMPARED).get(row.task_id)
            if found is None or found.get("revision") != row.revision or found.get("noted_attempt"):
                return False
            batch = self._batch()
            self._delete(batch, found)
            return requests.commit(batch)

    def _delete(self, batch: Any, stored: Any) -> None:
        batch.delete(stored.reference, LastUpdateOption(stored.update_time))
        if stored.to_dict().get("body_apart"):
            batch.delete(document(self._bodies, stored.id))

    def select(self, selection: Selection, limit: int) -> Page:
        """Never short: Firestore merges the indexes of several filters, and returns only what matches."""
        rows = self._rows(queries.selected(self._tasks, selection), limit + 1)
        is_more = len(rows) > limit
        return Page(rows[:limit], (rows[limit - 1].created_at, rows[limit - 1].task_id) if is_more else None)

    def overdue(self, before: float, limit: int, *, after: tuple[float, str] | None = None) -> list[Row]:
        return self._rows(queries.overdue(self._tasks, before, after), limit)

    def _rows(self, query: Any, limit: int) -> list[Row]:
        with self._database.requests() as requests:
            return [_row(found) for found in requests.find(query.limit(limit))]

    def abandoned(self, limit: int) -> list[Row]:
        """
        Queries between the names of live workers, so that their own rows are not read.

        A row of a worker that starts at that moment may be returned; `holder_of` decides.
        """
        with self._database.requests() as requests:
            rows: list[Row] = []
            alive = self._alive_workers(requests)
            for low, high in zip(["", *alive], [*alive, None], strict=True):
                query = queries.run_between(self._tasks, low, high)
                rows += [_row(found) for found in requests.find(query.limit(limit - len(rows)))]
                if len(rows) >= limit:
                    break
            return rows

    def tally(self, overdue_before: float) -> Tally:
        with self._database.requests() as requests:
            overdue = _counted(requests, queries.late(self._tasks, overdue_before), "next_attempt_at")
            running = requests.count(queries.running(self._tasks))
            return Tally(*overdue, running, *_counted(requests, queries.undelivered(self._tasks), "callback_due_since"))

    def expire(self, limit: int) -> int:
        """Deletes expired workers, too."""
        with self._database.requests() as requests:
            self._delete_expired(requests, self._workers, "seen_at", WORKERS_KEPT + _MARGIN, limit)
            return self._delete_expired(requests, self._tasks, "expires_at", 0.0, limit)

    def _delete_expired(self, requests: Requests, collection: Any, field: str, kept: float, limit: int) -> int:
        """Reads the oldest document first: its read time is the current time."""
        for oldest in requests.find(queries.oldest(collection, field).limit(1)):
            until = self._database.now(oldest) - kept
            if oldest.get(field).timestamp() <= until:
                over = requests.find(queries.oldest(collection, field, until).limit(limit))
                batch = self._batch()
                for found in over:
                    self._delete(batch, found)
                return len(over) if requests.commit(batch) else 0
        return 0

    def _batch(self) -> Any:
        return self._database.client.batch()


def _row(found: Any, body: bytes = b"", response_body: bytes = b"") -> Row:
    return row_of((found.get(name) for name in STORED), body, response_body)


def _counted(requests: Requests, query: Any, field: str) -> tuple[int, float | None]:
    """The number of documents and the first value of *field*; without any, no count is requested."""
    for first in requests.find(query.select([field]).order_by(field).limit(1)):
        return requests.count(query), first.get(field)
    return 0, None
