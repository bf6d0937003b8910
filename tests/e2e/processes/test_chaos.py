"""The delivery promise as a whole: relays and their queue are killed at random, and everything accepted ends once."""

from __future__ import annotations

from contextlib import closing
from random import Random
from typing import TYPE_CHECKING

import pytest

from support.aftermath import Aftermath, settle
from support.fates import Downstreams, Receiver
from support.fleet import Fleet
from support.load import Load
from support.schema import validate
from support.shared_store import SharedStore, in_file, in_firestore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SEED = 20_261_121
SOAK = [pytest.mark.soak, pytest.mark.timeout(400)]


@pytest.fixture
def downstreams() -> Iterator[Downstreams]:
    with Downstreams() as running:
        yield running


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SharedStore]:
    if request.param == "sqlite":
        made = in_file(tmp_path / "ledger.db")
    else:
        made = in_firestore(request.getfixturevalue("firestore"), "storm")
    with closing(made.ledger):
        yield made


@pytest.mark.parametrize(
    ("store", "relays", "tasks", "seconds", "most"),
    [
        pytest.param("sqlite", 2, 30, 3.0, 0.25, marks=pytest.mark.whole, id="short"),
        pytest.param("sqlite", 6, 200, 35.0, 0.25, marks=SOAK, id="sqlite"),
        pytest.param("firestore", 3, 80, 40.0, 1.0, marks=SOAK, id="firestore"),
    ],
    indirect=["store"],
)
def test_tasks_end_once_and_callbacks_arrive_despite_kills(
    store: SharedStore,
    relays: int,
    tasks: int,
    seconds: float,
    most: float,
    tmp_path: Path,
    downstreams: Downstreams,
    receiver: Receiver,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with (
        Fleet(tmp_path, relays, store.name, random=Random(SEED), more=store.more) as fleet,
        Load(fleet, SEED, tasks, seconds * 0.8, downstreams.url, receiver.url) as load,
    ):
        with store.coming_and_going(seconds / 3):
            fleet.storm(seconds, most / 5, most)
        load.finish()
        settle(store.ledger, fleet)
        before = Aftermath(store.ledger, fleet, downstreams, receiver, load.accepted)
        load.deliver_all_again()
        after = Aftermath(store.ledger, fleet, downstreams, receiver, load.accepted)
        torn = fleet.torn()
    missing = after.missing_records()
    with capsys.disabled():
        killed = {"killed": dict(fleet.kills), "fallen": fleet.fallen, "never said": missing}
        print(f"\nseed {SEED}: {killed | after.figures()}; {dict(load.counts)}")  # noqa: T201
    assert (len(load.accepted), len(torn) <= fleet.kills.total()) == (tasks, True)
    after.check_ends()
    after.check_callbacks()
    after.check_calls()
    assert (after.figures() | {"records": 0}) == (before.figures() | {"records": 0})
    for record in after.records:
        validate(record)
