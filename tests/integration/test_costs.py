"""What one call costs in each service, counted with Firestore's emulator; docs/operations.md reckons with it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from google.cloud.firestore_v1 import types

from support.asking import post
from support.firestore_emulator import emulator_at
from support.firestore_recorder import Recorder
from support.house import ROOT
from support.scripts import show
from traced_relay.tasks.ids import callback_id
from traced_relay.testing import Downstream, RunningRelay

if TYPE_CHECKING:
    from support.firestore_emulator import FirestoreEmulator

pytestmark = pytest.mark.whole
AT_ONCE = {"min_backoff": "0s", "max_backoff": "0s", "jitter": "none"}


def told() -> dict[str, dict[str, int]]:
    """The table of the page: a row for each kind of call."""
    page = (ROOT / "docs" / "operations.md").read_text()
    names, _, *rows = re.findall(r"^\|(?: a call|-).*", page[page.index("| a call |") :], re.MULTILINE)
    columns = [name.strip() for name in names.strip("|").split("|")][1:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {first: dict(zip(columns, map(int, numbers), strict=True)) for first, *numbers in cells}


def documents(recorder: Recorder, names: tuple[str, ...]) -> tuple[int, int]:
    """How many of the rows with these names, and of what goes with them, were read and written."""
    read = written = 0
    for method, sent in recorder.asked:
        if method == "BatchGetDocuments":
            asked = types.BatchGetDocumentsRequest.deserialize(sent).documents
            read += sum(name.rpartition("/")[2] in names for name in asked)
        elif method == "Commit":
            changes = types.CommitRequest.deserialize(sent).writes
            written += sum((each.update.name or each.delete).rpartition("/")[2] in names for each in changes)
    return read, written


def cost(firestore: FirestoreEmulator, *answers: int, with_callback: bool = False) -> dict[str, int]:
    with Recorder(firestore.host) as recorder, emulator_at(recorder.address):
        ledger = f"firestore:traced-relay/{uuid4().hex}"
        with RunningRelay(ledger=ledger) as relay, Downstream(*answers) as downstream, Downstream(200) as receiver:
            call: dict[str, Any] = {"url": downstream.url, "retry": AT_ONCE}
            receipt = post(
                f"{relay.url}/v1/tasks", call | ({"callback": {"url": receiver.url}} if with_callback else {})
            )
            names = (receipt.document["task_id"], callback_id(receipt.document["task_id"], 1))
            relay.wait_for("task.finished", names[with_callback], 30)
        lines = relay.log.handler.stream.getvalue().splitlines()
        read, written = documents(recorder, names)
    records = [line for line in lines if json.loads(line).get("task_id") in names]
    dispatches = sum('"attempt.started"' in line for line in records)
    return {
        "reads": read,
        "writes": written,
        "deletes": len(names) if with_callback else 1,
        "operations of Cloud Tasks": 2 * dispatches,
        "records": len(records),
        "bytes of them": sum(map(len, records)),
        "spans": len(relay.spans.spans(receipt.document["trace_id"])),
    }


@pytest.mark.parametrize(
    ("kind", "answers", "with_callback"),
    [
        ("a call that succeeds at once", (200,), False),
        ("a call that is retried once", (503, 200), False),
        ("a call with its callback", (200,), True),
    ],
)
def test_a_call_costs_what_the_page_says(
    firestore: FirestoreEmulator, kind: str, answers: tuple[int, ...], with_callback: bool
) -> None:
    counted = cost(firestore, *answers, with_callback=with_callback)
    show(kind, [f"{number} {name}" for name, number in counted.items()])
    said = told()[kind]
    assert said["bytes of them"] == pytest.approx(counted["bytes of them"], rel=0.1)
    # Where two changes meet, one is made again.
    assert counted["reads"] - said["reads"] in range(5)
    assert counted["writes"] - said["writes"] in range(3)
    vague = dict.fromkeys(("bytes of them", "reads", "writes"), 0)
    assert counted | vague == said | vague
