"""Where in Firestore a ledger is: `[DATABASE/]COLLECTION` of RELAY_LEDGER. Law: Firestore's own rules for names."""

from __future__ import annotations

import re

from traced_relay.errors import InvalidSettings


def firestore_location(place: str) -> tuple[str, str]:
    """Database and collection; InvalidSettings where Firestore, or what is put behind the name, would not take it."""
    before, _, collection = place.rpartition("/")
    database = before or "(default)"
    if database != "(default)" and not re.fullmatch(r"[a-z][a-z0-9-]{2,61}[a-z0-9]", database):
        raise InvalidSettings(
            "RELAY_LEDGER: a database of Firestore is (default), or 4 to 63 of a-z, 0-9 and -, from a letter to no -,"
            f" got {database[:80]!r}"
        )
    if not re.fullmatch(r"(?!__.*__$)[A-Za-z0-9_-]{1,100}", collection):
        raise InvalidSettings(
            "RELAY_LEDGER: a collection is 1 to 100 of A-Z, a-z, 0-9, _ and -, and not between double underscores,"
            f" got {collection[:80]!r}"
        )
    return database, collection
