"""firestore.indexes.json: every query that the ledger sends has its index, and every index its query."""

from __future__ import annotations

import json
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from support.example_rows import NOW, row
from support.firestore_emulator import ledger_at
from support.firestore_recorder import Recorder
from support.firestore_rules import Asked, asked, is_served
from support.house import ROOT
from support.ledgers import RETENTION
from traced_relay.ledger.protocol import FILTERS, Selection
from traced_relay.runtime.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.firestore_emulator import FirestoreEmulator
    from traced_relay.ledger.firestore.ledger import FirestoreLedger

pytestmark = pytest.mark.whole

INDEXES: dict[str, Any] = json.loads((ROOT / "firestore.indexes.json").read_text())
COLLECTION = yaml.safe_load((ROOT / "app.yaml").read_text())["env_variables"]["RELAY_LEDGER"].rpartition("/")[2]
FILTER_VALUES: list[dict[str, Any]] = [*({name: "a"} for name in FILTERS if name != "kind"), {"label": ("a", "b")}]
PLACES: list[dict[str, Any]] = [{}, {"since": NOW}, {"before": (NOW, "a")}, {"since": NOW, "before": (NOW, "a")}]


def selections() -> Iterator[Selection]:
    """With no filter, with each, with each two and with all."""
    for count in (0, 1, 2, len(FILTER_VALUES)):
        for chosen in combinations(FILTER_VALUES, count):
            filters = {name: value for each in chosen for name, value in each.items()}
            yield from (Selection(**filters, **place) for place in PLACES)


def do_everything(ledger: FirestoreLedger, clock: ManualClock) -> None:
    ledger.insert(row())
    ledger.insert(row(task_id="callback", kind="callback"))
    ledger.insert(row(task_id="running", state="running", worker="w0", next_attempt_at=None))
    ledger.replace(row(task_id="callback", kind="callback", state="failed", finished_at=NOW, revision=2))
    ledger.insert(row(task_id="pending", kind="callback"))
    ledger.keep_alive("w1", 15)
    for selection in selections():
        ledger.select(selection, 1)
    ledger.starting_with("a1b2", 10)
    ledger.starting_with("a1b2", 10, after="a1b2c3")
    ledger.overdue(NOW + 1, 1)
    ledger.overdue(NOW + 1, 1, after=(NOW, "a"))
    ledger.abandoned(10)
    ledger.tally(NOW + 1)
    ledger.heartbeats({"w1"})
    clock.advance(RETENTION + 1)
    assert ledger.expire(10) == 1


@pytest.fixture(scope="module")
def sent(firestore: FirestoreEmulator) -> list[Asked]:
    """What the ledger asks, as it went over the wire, in the collection that app.yaml names."""
    clock = ManualClock(NOW)
    with Recorder(firestore.host) as recorder:
        ledger = ledger_at(recorder.address, COLLECTION, clock=clock, retention=RETENTION)
        do_everything(ledger, clock)
        ledger.close()
        return [asked(query) for query in recorder.queries()]


def refused(sent: list[Asked], indexes: dict[str, Any]) -> list[Asked]:
    return [query for query in sent if not is_served(query, indexes)]


def test_every_query_has_its_index(sent: list[Asked]) -> None:
    assert len(set(sent)) > 30
    assert refused(sent, INDEXES) == []


@pytest.mark.parametrize("number", range(len(INDEXES["indexes"])))
def test_no_index_can_be_left_out(sent: list[Asked], number: int) -> None:
    fewer = [index for place, index in enumerate(INDEXES["indexes"]) if place != number]
    assert refused(sent, INDEXES | {"indexes": fewer})


def test_no_index_of_a_single_field_can_be_left_out(sent: list[Asked]) -> None:
    kept = [said for said in INDEXES["fieldOverrides"] if said["indexes"]]
    assert len(kept) == 4
    for said in kept:
        others = [other for other in INDEXES["fieldOverrides"] if other is not said]
        assert refused(sent, INDEXES | {"fieldOverrides": [*others, said | {"indexes": []}]})


def test_another_order_or_field_has_no_index() -> None:
    kind = frozenset({("kind", "EQUAL")})
    assert is_served(Asked(COLLECTION, kind, (("created_at", "DESCENDING"),)), INDEXES)
    assert not is_served(Asked(COLLECTION, kind, (("created_at", "ASCENDING"),)), INDEXES)
    assert not is_served(Asked(COLLECTION, kind, (("round", "DESCENDING"),)), INDEXES)
    assert not is_served(Asked(COLLECTION, kind, ()), INDEXES)
    assert not is_served(Asked(f"{COLLECTION}-bodies", kind, (("created_at", "DESCENDING"),)), INDEXES)
    assert not is_served(Asked(COLLECTION, frozenset({("labels", "EQUAL")}), (("created_at", "DESCENDING"),)), INDEXES)


def test_what_has_expired_goes_by_itself() -> None:
    expiring = [said["collectionGroup"] for said in INDEXES["fieldOverrides"] if said.get("ttl")]
    assert expiring == [COLLECTION, f"{COLLECTION}-bodies"]
