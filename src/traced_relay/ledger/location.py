"""Firestore location of a ledger: `[DATABASE/]COLLECTION` in RELAY_LEDGER, by Firestore's rules for names."""

from __future__ import annotations

import re

from traced_relay.errors import InvalidSettings


def firestore_location(location: str) -> tuple[str, str]:
    """Database and collection; InvalidSettings if Firestore would reject either, or a name that the ledger derives."""
    before, _, collection = location.rpartition("/")
    database = before or "(default)"
    if database != "(default)" and not re.fullmatch(r"[a-z][a-z0-9-]{2,61}[a-z0-9]", database):
        raise InvalidSettings(
            "RELAY_LEDGER: the Firestore database must be (default), or 4 to 63 characters of a-z, 0-9 and -, starting"
            " with a letter and not ending with -,"
            f" got {database[:80]!r}"
        )
    if not re.fullmatch(r"(?!__.*__$)[A-Za-z0-9_-]{1,100}", collection):
        raise InvalidSettings(
            "RELAY_LEDGER: the collection must be 1 to 100 characters of A-Z, a-z, 0-9, _ and -, not in double"
            f" underscores, got {collection[:80]!r}"
        )
    return database, collection
