"""A store that several processes have in common, and how it goes away for a while."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import TYPE_CHECKING

from traced_relay.ledger.sqlite import SqliteLedger
from traced_relay.runtime.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from support.firestore_emulator import FirestoreEmulator
    from traced_relay.ledger.protocol import Ledger


@dataclass(frozen=True)
class SharedStore:
    """
    *ledger* is open here, *name* and *more* let other processes open it.

    While it is *away*, which it is for so many *seconds* now and then, it
    answers nobody, and may do later what it was asked.
    """

    ledger: Ledger
    name: str
    away: Callable[[], AbstractContextManager[None]]
    seconds: float
    more: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def coming_and_going(self, every: float) -> Iterator[None]:
        """Away once in *every* so many seconds while what is inside goes on."""
        over = Event()

        def run() -> None:
            while not over.wait(every):
                with self.away():
                    over.wait(self.seconds)

        thread = Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def in_file(file: Path) -> SharedStore:
    @contextmanager
    def locked() -> Iterator[None]:
        with closing(sqlite3.connect(file, isolation_level=None, timeout=10)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")

    return SharedStore(SqliteLedger(SystemClock(), file), f"sqlite:{file}", locked, 3.0)


def in_firestore(emulator: FirestoreEmulator, collection: str) -> SharedStore:
    more = {"FIRESTORE_EMULATOR_HOST": emulator.host}
    return SharedStore(emulator.ledger(collection), f"firestore:traced-relay/{collection}", emulator.frozen, 7.0, more)
