from __future__ import annotations

from typing import Any

import pytest

from support.lives import BUSY, attempt, document
from traced_relay.client.dev_console import DevConsole
from traced_relay.timeline.sources import LogProject, from_dev, log_project_of

RELAY = "https://relay.example.com"
GOOGLES = "https://console.cloud.google.com/logs/query;query=operation.id%3D%22a%22?project=named"
NAMED = attempt(1, 0, 1, BUSY, task_name="projects/of-tasks/locations/l/queues/q/tasks/a-1")


@pytest.mark.parametrize(
    ("relay", "life", "place"),
    [
        (RELAY, document("failed", NAMED), LogProject("of-tasks", "its task names")),
        (RELAY, document("queued"), LogProject("named", "its link to the log")),
        (RELAY, document("failed", attempt(1, 0, 1, BUSY)), LogProject("named", "its link to the log")),
        (RELAY, document("queued", links={"logs": "https://elsewhere.example/?project=named"}), None),
        (RELAY, document("queued", links={"logs": "https://console.cloud.google.com/logs"}), None),
        (RELAY, document("queued", links={"logs": GOOGLES + "%22%20OR%20a:%22"}), None),
        ("http://localhost:8080", document("failed", NAMED), None),
    ],
)
def test_project_comes_from_the_document(relay: str, life: dict[str, Any], place: LogProject | None) -> None:
    assert log_project_of({"links": {"logs": GOOGLES}} | life, relay) == place


def test_unknown_project_gives_a_note_and_no_records() -> None:
    found = from_dev(lambda: DevConsole("https://relay.example.com"), "a")
    assert (found.records, found.spans) == (None, None)
    assert found.notes == (
        "records: none; https://relay.example.com is not on loopback; --project reads a deployed relay's records",
    )
