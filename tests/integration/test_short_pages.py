"""Lists with several filters over many rows: short pages, followed by the client, the command and the console."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.asking import get
from support.command import run
from support.example_rows import NOW, row
from traced_relay.client.client import Client
from traced_relay.console import pages
from traced_relay.ledger.sqlite import EXAMINED_IN_MEMORY
from traced_relay.testing import RunningRelay

if TYPE_CHECKING:
    from collections.abc import Iterator

FOUND = ("0" * 31 + "1", "0" * 31 + "2")


@pytest.fixture(scope="module")
def relay() -> Iterator[RunningRelay]:
    """Two tasks of another queue among so many that no query examines them all."""
    with RunningRelay() as running:
        for number in range(EXAMINED_IN_MEMORY):
            running.application.ledger.insert(
                row(task_id=f"{number + 10:032x}", created_at=NOW + number, next_attempt_at=None)
            )
        for age, task_id in enumerate(FOUND):
            running.application.ledger.insert(
                row(task_id=task_id, created_at=NOW - age, queue="rare", next_attempt_at=None)
            )
        yield running


def test_a_page_may_be_empty_before_the_last(relay: RunningRelay) -> None:
    first = get(f"{relay.url}/v1/tasks?queue=rare").document
    assert first["tasks"] == []
    second = get(f"{relay.url}/v1/tasks?queue=rare&page_token={first['next_page_token']}").document
    assert [task["task_id"] for task in second["tasks"]] == list(FOUND)
    assert second["next_page_token"] is None


def test_the_client_goes_on_after_a_short_page(relay: RunningRelay) -> None:
    client = Client(relay.url)
    assert [task["task_id"] for task in client.list(queue="rare")] == list(FOUND)
    client.close()


def test_the_command_goes_on_after_a_short_page(relay: RunningRelay) -> None:
    ran = run("list", "--queue", "rare", "--relay", relay.url)
    assert [line.split()[0] for line in ran.stdout.splitlines()] == list(FOUND)


def test_the_console_goes_on_after_a_short_page(relay: RunningRelay) -> None:
    client = Client(relay.url)
    page = pages.page_of_rows(client, {"queue": "rare"}, NOW)
    assert ([each["id"] for each in page["rows"]], page["next"]) == (list(FOUND), None)
    client.close()
