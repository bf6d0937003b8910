"""The delivery promise as a whole: relays and their queue are killed at random, and everything accepted ends once."""

from __future__ import annotations

from contextlib import closing
from random import Random
from threading import Event
from typing import TYPE_CHECKING

import pytest
from aftermath import Aftermath, settle
from fates import Downstreams, Receiver
from fleet import Fleet
from load import Load

from schema import validate
from traced_relay.clock import SystemClock
from traced_relay.sqlite_ledger import SqliteLedger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from traced_relay.ledger import Ledger

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


@pytest.fixture(params=["sqlite", "firestore"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Ledger, str, dict[str, str]]]:
    """A ledger that several processes share: opened here, and as they are told of it."""
    if request.param == "sqlite":
        file = tmp_path / "ledger.db"
        ledger, name, more = SqliteLedger(SystemClock(), file), f"sqlite:{file}", {}
    else:
        emulator = request.getfixturevalue("firestore")
        ledger, name = emulator.ledger("storm"), "firestore:traced-relay/storm"
        more = {"FIRESTORE_EMULATOR_HOST": emulator.host}
    with closing(ledger):
        yield ledger, name, more


@pytest.mark.parametrize(
    ("shared", "relays", "tasks", "seconds", "most"),
    [
        pytest.param("sqlite", 2, 30, 3.0, 0.25, marks=pytest.mark.whole, id="short"),
        pytest.param("sqlite", 6, 200, 35.0, 0.25, marks=SOAK, id="sqlite"),
        pytest.param("firestore", 3, 80, 30.0, 1.0, marks=SOAK, id="firestore"),
    ],
    indirect=["shared"],
)
def test_whatever_is_killed_each_task_ends_once_and_its_callback_comes(
    shared: tuple[Ledger, str, dict[str, str]],
    relays: int,
    tasks: int,
    seconds: float,
    most: float,
    tmp_path: Path,
    downstreams: Downstreams,
    receiver: Receiver,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ledger, name, more = shared
    with Fleet(tmp_path, relays, name, random=Random(SEED), more=more) as fleet:
        load = Load(fleet, SEED, tasks, seconds * 0.8, downstreams.url, receiver.url)
        load.start()
        fleet.storm(seconds, most / 5, most, Event())
        load.finish()
        settle(ledger, fleet)
        before = Aftermath(ledger, fleet, downstreams, receiver, load.accepted)
        load.deliver_all_again()
        after = Aftermath(ledger, fleet, downstreams, receiver, load.accepted)
        torn, fallen = fleet.torn(), fleet.fallen()
    missing = after.missing_records()
    with capsys.disabled():
        counted = {"kills": dict(fleet.kills), "asked": dict(load.counts), "never said": missing, **after.figures()}
        print(f"\nseed {SEED}: {counted}")  # noqa: T201
    assert (len(load.accepted), fallen, len(torn) <= fleet.kills.total()) == (tasks, [], True)
    after.check_ends()
    after.check_callbacks()
    after.check_calls()
    assert (after.figures() | {"records": 0}) == (before.figures() | {"records": 0})
    for record in after.records:
        validate(record)
