from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from example_rows import NOW, call, row
from traced_relay.clock import ManualClock
from traced_relay.ledger import Selection
from traced_relay.rows import Attempt
from traced_relay.sqlite_ledger import SqliteLedger

if TYPE_CHECKING:
    from collections.abc import Iterator

ATTEMPT = Attempt(attempt=1, round=1, task_name="t-1", span_id="", version="v7", instance="i-1", started_at=NOW)


@pytest.fixture
def ledger() -> Iterator[SqliteLedger]:
    opened = SqliteLedger(ManualClock(NOW))
    yield opened
    opened.close()


def listed(ledger: SqliteLedger, limit: int = 10, **selection: Any) -> list[str]:
    return [found.task_id for found in ledger.select(Selection(**selection), limit)]


@pytest.fixture
def filled(ledger: SqliteLedger) -> SqliteLedger:
    labels = call(labels={"team": "billing", "tier": "1"})
    for given in (
        row(task_id="a", created_at=NOW + 1, call=labels, attempts=(ATTEMPT,)),
        row(task_id="b", created_at=NOW + 2, state="failed", reason="timeout"),
        row(task_id="c", created_at=NOW + 2, queue="slow", call=call(labels={"team": "sales"})),
        row(task_id="d", created_at=NOW + 3, rule="partner", caller="other@p"),
        row(task_id="e", created_at=NOW + 4, kind="callback"),
    ):
        ledger.insert(given)
    return ledger


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({}, "dcba"),
        ({"kind": "callback"}, "e"),
        ({"state": "failed"}, "b"),
        ({"state": "queued"}, "dca"),
        ({"queue": "slow"}, "c"),
        ({"rule": "partner"}, "d"),
        ({"reason": "timeout"}, "b"),
        ({"version": "v7"}, "a"),
        ({"caller": "other@p"}, "d"),
        ({"since": NOW + 2}, "dcb"),
        ({"since": NOW + 5}, ""),
        ({"label": ("team", "billing")}, "a"),
        ({"label": ("team", "")}, ""),
        ({"label": ("billing", "team")}, ""),
        ({"before": (NOW + 2, "c")}, "ba"),
        ({"before": (NOW + 3, "a")}, "cba"),
        ({"state": "queued", "queue": "relay", "label": ("tier", "1")}, "a"),
        ({"queue": "' OR 1=1 --"}, ""),
        ({"label": ("%", "%")}, ""),
    ],
)
def test_a_list_is_newest_first_and_filtered(filled: SqliteLedger, selection: dict[str, Any], expected: str) -> None:
    assert "".join(listed(filled, **selection)) == expected


def test_a_list_follows_what_changed(filled: SqliteLedger) -> None:
    filled.replace(row(task_id="a", created_at=NOW + 1, state="failed", reason="http_404", revision=2))
    assert listed(filled, state="failed") == ["b", "a"]
    assert listed(filled, reason="http_404") == ["a"]
    assert listed(filled, version="v7") == []


def test_pages_follow_each_other_without_gap_or_overlap(filled: SqliteLedger) -> None:
    seen: list[str] = []
    before: tuple[float, str] | None = None
    while page := filled.select(Selection(before=before), 1):
        seen += [found.task_id for found in page]
        before = (page[-1].created_at, page[-1].task_id)
    assert seen == ["d", "c", "b", "a"]
