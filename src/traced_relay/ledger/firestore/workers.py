"""Leases of workers in Firestore: one document per worker, dated by Firestore's own clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.cloud.firestore import ArrayRemove, ArrayUnion

from traced_relay.errors import Unavailable
from traced_relay.ledger.firestore import queries
from traced_relay.ledger.firestore.queries import document
from traced_relay.tasks.state_machine import Holder

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from traced_relay.ledger.firestore.requests import Database, Requests
    from traced_relay.tasks.row import Row


class WorkerLeases:
    """
    The part of the ledger that keeps leases, in the collection *workers*.

    Only a worker writes its own document, but for `cuts`, the calls it has to abort.
    """

    def __init__(self, database: Database, workers: Any) -> None:
        self._database = database
        self._workers = workers

    def keep_alive(self, worker: str, seconds: float) -> list[str]:
        own = document(self._workers, worker)
        with self._database.requests() as requests:
            found = requests.read([own]).get(worker)
            batch = self._database.client.batch()
            if found is None:
                batch.create(own, self._lease(seconds))
                _must(requests.commit(batch))
                return []
            cuts: list[str] = found.get("cuts")
            changes = {} if found.get("stopped") else {"seen_at": self._database.stamp(), "seconds": seconds}
            changes |= {"cuts": ArrayRemove(cuts)} if cuts else {}
            if changes:
                batch.update(own, changes)
                _must(requests.commit(batch))
            return cuts

    def _lease(self, seconds: float) -> dict[str, Any]:
        return {"seen_at": self._database.stamp(), "seconds": seconds, "stopped": False, "unsent": [], "cuts": []}

    def abort(self, worker: str, attempt_name: str) -> None:
        with self._database.requests() as requests:
            batch = self._database.client.batch()
            batch.update(document(self._workers, worker), {"cuts": ArrayUnion([attempt_name])})
            requests.commit(batch)

    def stop(self, worker: str, unsent: Sequence[str]) -> None:
        with self._database.requests() as requests:
            batch = self._database.client.batch()
            end = self._lease(0.0) | {"stopped": True, "unsent": list(unsent)}
            batch.set(document(self._workers, worker), end)
            requests.commit(batch)

    def holder_of(self, row: Row) -> Holder:
        with self._database.requests() as requests:
            worker = row.worker or ""
            found = requests.read([document(self._workers, worker)]).get(worker)
        if found is None:
            return Holder.LOST
        if found.get("stopped"):
            return Holder.STOPPED_UNSENT if row.attempt_name in found.get("unsent") else Holder.STOPPED
        return Holder.ALIVE if self._is_alive(found) else Holder.LOST

    def _alive_workers(self, requests: Requests) -> list[str]:
        """The names of live workers, in order."""
        unstopped = requests.find(queries.unstopped(self._workers))
        return sorted(worker.id for worker in unstopped if self._is_alive(worker))

    def _is_alive(self, worker: Any) -> bool:
        return bool(worker.get("seen_at").timestamp() + worker.get("seconds") > self._database.now(worker))

    def heartbeats(self, workers: Collection[str]) -> dict[str, float]:
        if not workers:
            return {}
        with self._database.requests() as requests:
            found = requests.read([document(self._workers, worker) for worker in workers], ("seen_at",))
            return {name: worker.get("seen_at").timestamp() for name, worker in found.items()}


def _must(is_written: bool) -> None:
    if not is_written:
        raise Unavailable("the worker's document was changed concurrently")
