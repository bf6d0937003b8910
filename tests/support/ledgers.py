"""Each kind of ledger by its name, on a store of its own, and what tests do with any of them."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Self

from traced_relay.ledger.sqlite import SqliteLedger

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from traced_relay.ledger.protocol import Ledger
    from traced_relay.runtime.clock import Clock
    from traced_relay.tasks.row import Row

RETENTION = 1000.0


class Store:
    """Opens ledgers of the kind that the fixture's parameter names; closes them all in the end."""

    def __init__(self, request: pytest.FixtureRequest, clock: Clock, directory: Path) -> None:
        self._request = request
        self._clock = clock
        self._file = directory / "ledger" if request.param == "file" else None
        self._collection = f"calls-{uuid.uuid4().hex}"
        self._opened: list[Ledger] = []

    def open(self) -> Ledger:
        if self._request.param == "firestore":
            emulator = self._request.getfixturevalue("firestore")
            opened: Ledger = emulator.ledger(self._collection, clock=self._clock, retention=RETENTION)
        else:
            opened = SqliteLedger(self._clock, self._file, retention=RETENTION)
        self._opened.append(opened)
        return opened

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for ledger in self._opened:
            ledger.close()


def changed(before: Row, **changes: Any) -> Row:
    return before.changed(**changes, revision=before.revision + 1)


def write(ledger: Ledger, full: Row) -> None:
    """As it comes about: enqueued, and changed once there is an answer."""
    assert ledger.insert(full.changed(response=None, revision=full.revision - 1))
    assert ledger.replace(full)
