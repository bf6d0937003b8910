"""What only the ledger in Firestore has: a clock that is not ours, documents with a limit, a network, a price."""

from __future__ import annotations

import json
import socket
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from google.cloud import firestore as google_firestore

from support.example_rows import FULL, NOW, TASK_ID, call, row
from support.firestore_emulator import emulator_at, environment, ledger_at
from support.firestore_recorder import Recorder
from support.ledgers import RETENTION, changed, write
from traced_relay.errors import Unavailable
from traced_relay.ledger.firestore.ledger import BODY_OUTLIVES
from traced_relay.ledger.firestore.requests import Database
from traced_relay.ledger.protocol import Selection
from traced_relay.tasks.call import Callback
from traced_relay.tasks.row import Response
from traced_relay.tasks.state_machine import Holder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.firestore_emulator import FirestoreEmulator
    from traced_relay.ledger.firestore.ledger import FirestoreLedger
    from traced_relay.tasks.row import Row

pytestmark = pytest.mark.whole


@pytest.fixture
def collection() -> str:
    return f"calls-{uuid.uuid4().hex}"


@pytest.fixture
def recorder(firestore: FirestoreEmulator) -> Iterator[Recorder]:
    with Recorder(firestore.host) as running:
        yield running


@pytest.fixture
def ledger(recorder: Recorder, collection: str) -> Iterator[FirestoreLedger]:
    opened = ledger_at(recorder.address, collection, retention=RETENTION)
    yield opened
    opened.close()


@pytest.fixture
def client(firestore: FirestoreEmulator) -> Iterator[Any]:
    """A look behind the ledger."""
    with emulator_at(firestore.host):
        made = google_firestore.Client(project="test-project", database="traced-relay")
    yield made
    made._firestore_api.transport.close()


def held(worker: str) -> Row:
    return row(state="running", worker=worker)


def test_firestores_own_clock_says_who_lives(ledger: FirestoreLedger) -> None:
    ledger.insert(held("w1"))
    ledger.keep_alive("w1", 3600)
    assert (ledger.holder_of(held("w1")), ledger.abandoned(1)) == (Holder.ALIVE, [])
    ledger.keep_alive("w1", 0)
    assert (ledger.holder_of(held("w1")), len(ledger.abandoned(1))) == (Holder.LOST, 1)


def test_a_sign_of_life_is_dated_by_firestore(ledger: FirestoreLedger, client: Any, collection: str) -> None:
    ledger.keep_alive("w1", 15)
    first = ledger.heartbeats({"w1"})
    written = client.collection(f"{collection}-workers").document("w1").get()
    assert first == {"w1": pytest.approx(written.update_time.timestamp(), abs=0.5)}
    ledger.keep_alive("w1", 15)
    assert ledger.heartbeats({"w1"})["w1"] > first["w1"]


def test_firestores_own_clock_says_what_has_expired(ledger: FirestoreLedger) -> None:
    year = 365 * 86_400.0
    for task_id, finished_at in (("long ago", 0.0), ("past", NOW - year), ("future", NOW + 100 * year)):
        ledger.insert(row(task_id=task_id.replace(" ", "-")))
        ledger.replace(row(task_id=task_id.replace(" ", "-"), state="failed", finished_at=finished_at, revision=2))
    assert ledger.expire(10) == 2
    assert sorted(ledger.get_many(["long-ago", "past", "future"])) == ["future"]


def test_a_body_too_large_for_the_row_goes_with_it_and_a_little_later(
    ledger: FirestoreLedger, client: Any, collection: str
) -> None:
    told = call(body=b"x" * 900_000, callback=Callback(url="https://hooks.example.com/", on=("failed",)))
    ended = row(call=told, state="failed", finished_at=NOW, revision=2)
    ledger.insert(row(call=told))
    stored = client.collection(f"{collection}-bodies").document(TASK_ID)
    assert stored.get().to_dict() == {"body": told.body}
    report = row(task_id="report", kind="callback", callback_of=TASK_ID, callback_round=1)
    ledger.replace(ended, callback=report)
    ledger.replace(changed(report, state="succeeded", finished_at=NOW + 5))
    until = NOW + 5 + RETENTION
    assert client.collection(collection).document(TASK_ID).get().get("expires_at") == datetime.fromtimestamp(until, UTC)
    assert stored.get().get("expires_at") == datetime.fromtimestamp(until, UTC) + BODY_OUTLIVES
    assert ledger.replace(changed(ended, state="queued", finished_at=None, round=2))
    assert stored.get().get("expires_at") is None
    stored.delete()
    with pytest.raises(Unavailable, match="a row without its call's body"):
        ledger.get(TASK_ID)


def test_what_another_version_added_to_a_row_is_left_aside(
    ledger: FirestoreLedger, client: Any, collection: str
) -> None:
    write(ledger, FULL)
    stored = client.collection(collection).document(TASK_ID)
    stored.update({"colour": "red", "document": stored.get().get("document").replace("{", '{"colour":"red",', 1)})
    assert ledger.get(TASK_ID) == FULL
    assert ledger.replace(changed(FULL))
    assert stored.get().get("colour") == "red"


def test_a_row_that_cannot_be_read_is_unavailable_and_not_guessed_at(
    ledger: FirestoreLedger, client: Any, collection: str
) -> None:
    ledger.insert(row())
    client.collection(collection).document(TASK_ID).update({"document": "{}"})
    with pytest.raises(Unavailable, match=r"a row that this version cannot read$"):
        ledger.get(TASK_ID)


def attempts(ledger: FirestoreLedger) -> list[tuple[str, Callable[[], Any], tuple[int, int]]]:
    """A call's life with its callback: each step with the documents it reads and writes."""
    told = call(callback=Callback(url="https://hooks.example.com/", on=("succeeded",)), body=b"x" * 10_000)
    enqueued = row(call=told)
    begun = changed(enqueued, state="running", worker="w1", attempt=1)
    answer = Response(status_code=200, headers={}, body=b"x" * 10_000)
    ended = changed(begun, state="succeeded", finished_at=NOW, worker=None, response=answer)
    report = row(task_id="report", kind="callback", callback_of=TASK_ID, callback_round=1)
    sent = changed(report, state="running", worker="w1")
    return [
        ("insert", lambda: ledger.insert(enqueued), (0, 1)),
        ("note", lambda: ledger.note(TASK_ID, 1), (0, 1)),
        ("get", lambda: ledger.get(TASK_ID), (1, 0)),
        ("begin", lambda: ledger.replace(begun), (1, 1)),
        ("end", lambda: ledger.replace(ended, callback=report), (2, 2)),
        ("begin of the callback", lambda: ledger.replace(sent), (2, 1)),
        ("end of the callback", lambda: ledger.replace(changed(sent, state="succeeded", finished_at=NOW + 1)), (2, 2)),
        ("first sign of life", lambda: ledger.keep_alive("w1", 15), (1, 1)),
        ("sign of life", lambda: ledger.keep_alive("w1", 15), (1, 1)),
        ("holder", lambda: ledger.holder_of(begun), (1, 0)),
        ("stop", lambda: ledger.stop("w1", []), (0, 1)),
    ]


def test_each_step_reads_and_writes_as_few_documents_as_it_can(ledger: FirestoreLedger, recorder: Recorder) -> None:
    costs = {}
    for step, take, _ in attempts(ledger):
        assert take() is not False
        costs[step] = recorder.cost()
    assert costs == {step: cost for step, _, cost in attempts(ledger)}


def test_a_store_that_is_away_is_unavailable(firestore: FirestoreEmulator, collection: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    ledger = ledger_at(f"127.0.0.1:{port}", collection)
    for ask in (
        lambda: ledger.get(TASK_ID),
        lambda: ledger.insert(row()),
        lambda: ledger.note(TASK_ID, 1),
        lambda: ledger.select(Selection(), 1),
        lambda: ledger.tally(0),
    ):
        with pytest.raises(Unavailable, match="the ledger cannot be used: ServiceUnavailable"):
            ask()
    ledger.close()


def test_a_silent_store_is_unavailable_after_five_seconds(collection: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ledger = ledger_at(f"127.0.0.1:{silent.getsockname()[1]}", collection)
        began = time.monotonic()
        with pytest.raises(Unavailable, match="the ledger cannot be used"):
            ledger.get(TASK_ID)
        assert time.monotonic() - began < 8
        ledger.close()


def test_googles_firestore_is_called_with_default_credentials(tmp_path: Path) -> None:
    file = tmp_path / "credentials.json"
    file.write_text(
        json.dumps({"type": "authorized_user", "client_id": "a", "client_secret": "b", "refresh_token": "c"})
    )
    with environment(GOOGLE_APPLICATION_CREDENTIALS=str(file)):
        database = Database("p", "relay")
    with database.requests():  # the channel is there; without a request it connects to nothing
        assert database.client._firestore_api.transport.kind == "grpc"
    database.close()


def test_without_credentials_the_ledger_is_unavailable(tmp_path: Path) -> None:
    file = tmp_path / "credentials.json"
    with (
        environment(GOOGLE_APPLICATION_CREDENTIALS=str(file)),
        pytest.raises(Unavailable, match="the ledger cannot be used: DefaultCredentialsError"),
    ):
        Database("p", "relay")
