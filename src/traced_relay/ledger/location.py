"""The value of RELAY_LEDGER taken apart: `memory`, `sqlite:FILE` or `firestore:[DATABASE/]COLLECTION`."""

from __future__ import annotations

import re
from pathlib import Path

from traced_relay.errors import InvalidSettings

LEDGERS = "memory, sqlite:FILE or firestore:[DATABASE/]COLLECTION"


def sqlite_file(ledger: str) -> Path | None:
    """The file of `sqlite:FILE`, None for `memory`; InvalidSettings for any other value."""
    kind, _, file = ledger.partition(":")
    if ledger != "memory" and not (kind == "sqlite" and re.match(r"(?!:|file:).", file)):  # names of SQLite's own
        raise InvalidSettings(f"RELAY_LEDGER must be {LEDGERS}, got {ledger[:80]!r}")
    return Path(file) if file else None


def firestore_collection(ledger: str) -> tuple[str, str] | None:
    """Database and collection of `firestore:…`, None for another ledger; InvalidSettings for names that cannot be."""
    kind, _, location = ledger.partition(":")
    if kind != "firestore":
        return None
    before, _, collection = location.rpartition("/")
    database = before or "(default)"
    if database != "(default)" and not re.fullmatch(r"[a-z][a-z0-9-]{2,61}[a-z0-9]", database):
        raise InvalidSettings(
            "RELAY_LEDGER: the Firestore database must be (default), or 4 to 63 characters of a-z, 0-9 and -"
            f" that start with a letter and do not end with -, got {database[:80]!r}"
        )
    if not re.fullmatch(r"(?!__.*__$)[A-Za-z0-9_-]{1,100}", collection):
        raise InvalidSettings(
            "RELAY_LEDGER: the Firestore collection must be 1 to 100 characters of A-Z, a-z, 0-9, _ and -"
            f" that do not start and end with __, got {collection[:80]!r}"
        )
    return database, collection
