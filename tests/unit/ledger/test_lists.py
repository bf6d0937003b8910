"""Lists of rows: selected, overdue, abandoned; in every ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support.example_rows import NOW, call, row
from support.ledgers import changed
from traced_relay.ledger.protocol import Selection, Tally
from traced_relay.tasks.row import Attempt

if TYPE_CHECKING:
    from traced_relay.ledger.protocol import Ledger
    from traced_relay.runtime.clock import ManualClock

ATTEMPT = Attempt(attempt=1, round=1, task_name="t-1", span_id="", version="v7", instance="i-1", started_at=NOW)


def listed(ledger: Ledger, limit: int = 10, **selection: Any) -> list[str]:
    return [found.task_id for found in ledger.select(Selection(**selection), limit).rows]


@pytest.fixture
def filled(ledger: Ledger) -> Ledger:
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
def test_a_list_is_newest_first_and_filtered(filled: Ledger, selection: dict[str, Any], expected: str) -> None:
    assert "".join(listed(filled, **selection)) == expected


@pytest.mark.parametrize(
    ("prefix", "limit", "expected"),
    [("a1", 9, ["a1", "a1ff", "a1ff0"]), ("a1ff", 9, ["a1ff", "a1ff0"]), ("a1", 2, ["a1", "a1ff"]), ("a2", 9, [])],
)
def test_rows_are_found_by_the_prefix_of_their_ids(
    ledger: Ledger, prefix: str, limit: int, expected: list[str]
) -> None:
    for task_id in ("b0", "a1ff", "a1ff0", "a1", "a0ff"):
        ledger.insert(row(task_id=task_id))
    assert [found.task_id for found in ledger.starting_with(prefix, limit)] == expected


def test_a_list_follows_what_changed(filled: Ledger) -> None:
    filled.replace(row(task_id="a", created_at=NOW + 1, state="failed", reason="http_404", revision=2))
    assert listed(filled, state="failed") == ["b", "a"]
    assert listed(filled, reason="http_404") == ["a"]
    assert listed(filled, version="v7") == []


def test_pages_follow_each_other_without_gap_or_overlap(filled: Ledger) -> None:
    seen: list[str] = []
    before: tuple[float, str] | None = None
    while page := filled.select(Selection(before=before), 1).rows:
        seen += [found.task_id for found in page]
        before = (page[-1].created_at, page[-1].task_id)
    assert seen == ["d", "c", "b", "a"]


@pytest.fixture
def waiting(ledger: Ledger) -> Ledger:
    for name, due in (("d", 3.0), ("a", 1.0), ("c", 2.0), ("b", 2.0), ("e", 2.0)):
        ledger.insert(row(task_id=name, next_attempt_at=NOW + due, call=call(body=b"x")))
    ledger.insert(row(task_id="running", state="running", worker="w1", next_attempt_at=None))
    return ledger


def test_overdue_rows_are_ordered_by_time_and_id(waiting: Ledger) -> None:
    assert [found.task_id for found in waiting.overdue(NOW + 10, 10)] == ["a", "b", "c", "e", "d"]
    assert [found.task_id for found in waiting.overdue(NOW + 3, 10)] == ["a", "b", "c", "e"]
    assert waiting.overdue(NOW + 1, 10) == []
    assert waiting.overdue(NOW + 10, 1) == [row(task_id="a", next_attempt_at=NOW + 1)]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_pages_of_overdue_rows_follow_each_other(waiting: Ledger, size: int) -> None:
    seen: list[str] = []
    after: tuple[float, str] | None = None
    while page := waiting.overdue(NOW + 10, size, after=after):
        seen += [found.task_id for found in page]
        after = (page[-1].next_attempt_at or 0.0, page[-1].task_id)
    assert seen == ["a", "b", "c", "e", "d"]


def test_a_moved_or_deleted_row_breaks_no_page(waiting: Ledger) -> None:
    [first, second] = waiting.overdue(NOW + 10, 2)
    waiting.replace(changed(first, next_attempt_at=NOW + 9))
    waiting.remove(second)
    rest = waiting.overdue(NOW + 10, 10, after=(NOW + 2, "b"))
    assert [found.task_id for found in rest] == ["c", "e", "d", "a"]


def run(ledger: Ledger, worker: str, *names: str) -> None:
    for name in names:
        ledger.insert(row(task_id=name, state="running", worker=worker, next_attempt_at=None))


def abandoned(ledger: Ledger, limit: int = 10) -> list[str]:
    return sorted(found.task_id for found in ledger.abandoned(limit))


def test_rows_of_live_workers_are_not_abandoned(ledger: Ledger, clock: ManualClock) -> None:
    for worker in ("w1", "w3", "w5"):
        ledger.keep_alive(worker, 15)
    for number in range(7):
        run(ledger, f"w{number}", f"a{number}", f"b{number}")
    ledger.insert(row())
    assert abandoned(ledger, 20) == sorted(f"{kind}{number}" for kind in "ab" for number in (0, 2, 4, 6))
    assert len(ledger.abandoned(3)) == 3
    clock.advance(15)
    ledger.keep_alive("w5", 15)
    assert abandoned(ledger, 20) == sorted(f"{kind}{number}" for kind in "ab" for number in (0, 1, 2, 3, 4, 6))


def test_rows_of_a_stopped_worker_are_abandoned_at_once(ledger: Ledger) -> None:
    ledger.keep_alive("w1", 15)
    run(ledger, "w1", "a", "b")
    assert abandoned(ledger) == []
    ledger.stop("w1", ["a"])
    assert abandoned(ledger) == ["a", "b"]
    ledger.replace(row(task_id="a", state="waiting", revision=2))
    assert abandoned(ledger) == ["b"]


def test_abandoned_rows_come_without_bodies(ledger: Ledger) -> None:
    ledger.insert(row(state="running", worker="w1", next_attempt_at=None, call=call(body=b"x")))
    assert ledger.abandoned(1) == [row(state="running", worker="w1", next_attempt_at=None)]


def test_an_empty_ledger_has_an_empty_tally(ledger: Ledger) -> None:
    assert ledger.tally(NOW) == Tally(0, None, 0, 0, None)


def test_a_tally_counts_overdue_running_and_callbacks(waiting: Ledger) -> None:
    run(waiting, "w2", "r1", "r2")
    for name, state, age in (
        ("k1", "queued", 5.0),
        ("k2", "waiting", 4.0),
        ("k3", "succeeded", 9.0),
        ("k4", "failed", 9.0),
    ):
        waiting.insert(row(task_id=name, kind="callback", state=state, created_at=NOW - age, next_attempt_at=NOW + 50))
    waiting.insert(row(task_id="k5", kind="callback", state="running", worker="w1", next_attempt_at=None))
    assert waiting.tally(NOW + 3) == Tally(4, NOW + 1, 4, 3, NOW - 5)
    waiting.replace(
        row(task_id="k1", kind="callback", state="succeeded", created_at=NOW - 5, next_attempt_at=None, revision=2)
    )
    assert waiting.tally(NOW + 1) == Tally(0, None, 4, 2, NOW - 4)
