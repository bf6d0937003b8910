"""Lists in SQLite: each query goes through one index in its order, and examines no more rows than its bound."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest

from support.example_rows import ATTEMPT, NOW, call, row
from traced_relay.ledger import sqlite_lists
from traced_relay.ledger.protocol import COUNTED, FILTERS, Selection, Tally
from traced_relay.ledger.sqlite import EXAMINED_IN_MEMORY, SqliteLedger
from traced_relay.runtime.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traced_relay.tasks.row import Row

GIVEN: dict[str, Any] = {name: "a" for name in FILTERS if name != "kind"} | {"label": ("team", "a")}
CHOICES = [chosen for count in range(len(GIVEN) + 1) for chosen in combinations(GIVEN, count)]


@pytest.fixture
def ledger() -> Iterator[SqliteLedger]:
    opened = SqliteLedger(ManualClock(NOW))
    yield opened
    opened.close()


def plan(ledger: SqliteLedger, query: str, count: int = 0) -> list[str]:
    values = (0,) * count or dict.fromkeys(
        ("kind", "before", "before_id", "end", "end_id", "limit", "last", "value", *GIVEN), 0
    )
    return [step for *_, step in ledger._db.execute(f"EXPLAIN QUERY PLAN {query}", values)]


def is_by_index(steps: list[str]) -> bool:
    return all("SEARCH" in step or "SUBQUERY" in step for step in steps)


def queries() -> Iterator[str]:
    """For each combination of filters, the query by each index that may serve it."""
    for chosen in CHOICES:
        for index in [name for name in chosen if name not in sqlite_lists.IN_AGE] or ["age"]:
            yield sqlite_lists.end_query(index)
            yield sqlite_lists.page_query(index, tuple(name for name in chosen if name != index))


def test_every_list_is_served_in_order_by_one_index(ledger: SqliteLedger) -> None:
    for query in set(queries()):
        steps = plan(ledger, query)
        assert is_by_index(steps), (query, steps)
        assert "created_at,task_id)>(?,?) AND (created_at,task_id)<(?,?)" in steps[0], (query, steps)


def test_the_bound_is_found_in_the_index_alone(ledger: SqliteLedger) -> None:
    for query in {sqlite_lists.end_query(index) for index in ("age", "label", "caller", "state", "reason", "version")}:
        [step] = plan(ledger, query)
        assert "USING COVERING INDEX" in step


@pytest.mark.parametrize(
    ("query", "count"),
    [
        (sqlite_lists.OVERDUE, 4),
        (sqlite_lists.ABANDONED, 2),
        (sqlite_lists.STARTING_WITH, 4),
        (sqlite_lists.COUNT_OVERDUE, 1),
        (sqlite_lists.COUNT_RUNNING, 0),
        (sqlite_lists.COUNT_CALLBACKS, 0),
    ],
)
def test_no_other_query_reads_all_rows(ledger: SqliteLedger, query: str, count: int) -> None:
    steps = [step for *_, step in ledger._db.execute(f"EXPLAIN QUERY PLAN {query}", (0,) * count)]
    assert "TEMP B-TREE" not in " ".join(steps)
    reading = [step for step in steps if step.startswith(("SEARCH tasks", "SCAN tasks"))]
    assert len(reading) == 1 or "COUNT" in query
    assert all(step.startswith("SEARCH") for step in reading)
    assert "COUNT" not in query or all("COVERING" in step for step in reading)


def test_a_tally_counts_no_further_than_its_bound(ledger: SqliteLedger) -> None:
    ledger.insert(row(kind="callback", created_at=NOW, next_attempt_at=NOW + 1))
    columns = [name for _, name, *_ in ledger._db.execute("PRAGMA table_info(tasks)")]
    copied = {"task_id": "n", "state": "'waiting'", "created_at": "created_at + n", "next_attempt_at": f"{NOW + 1} + n"}
    ledger._db.execute(
        f"WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n <= {COUNTED})"  # noqa: S608
        f" INSERT INTO tasks SELECT {', '.join(copied.get(name, name) for name in columns)} FROM tasks, numbers"
    )
    assert ledger.tally(NOW + COUNTED * 2) == Tally(COUNTED, NOW + 1, 0, COUNTED, NOW)
    assert ledger.tally(NOW + 3) == Tally(2, NOW + 1, 0, COUNTED, NOW)


def filled(ledger: SqliteLedger, count: int) -> list[Row]:
    """Rows with values at random, several of the same moment; newest first."""
    dice = random.Random(1)
    rows = [
        row(
            task_id=f"{dice.getrandbits(128):032x}",
            created_at=NOW + dice.randrange(count // 2),
            caller=dice.choice("abbb"),
            queue=dice.choice("abb"),
            rule=dice.choice("abb"),
            state=dice.choice(("queued", "failed", "failed")),
            reason=dice.choice(("a", "b", None)),
            attempts=(ATTEMPT.changed(version=dice.choice("ab")),),
            call=call(labels={"team": dice.choice("abb")}),
        )
        for _ in range(count)
    ]
    for each in rows:
        assert ledger.insert(each)
    return sorted(rows, key=lambda each: (each.created_at, each.task_id), reverse=True)


def fits(each: Row, selection: Selection) -> bool:
    named = all(getattr(selection, name) in (None, getattr(each, name)) for name in FILTERS)
    label = selection.label is None or each.call.labels.get(selection.label[0]) == selection.label[1]
    return named and label and (selection.since is None or each.created_at >= selection.since)


def pages(ledger: SqliteLedger, selection: Selection, examined: int) -> Iterator[tuple[list[Row], Any]]:
    after = None
    while True:
        page = sqlite_lists.select(ledger._list_readers, replace(selection, before=after), 3, examined)
        yield page.rows, page.after
        after = page.after
        if after is None:
            return


@pytest.mark.parametrize("since", [None, NOW + 20])
def test_short_pages_together_are_the_whole_list(ledger: SqliteLedger, since: float | None) -> None:
    rows = filled(ledger, 120)
    for chosen in CHOICES:
        given = {name: GIVEN[name] for name in chosen} | ({"state": "queued"} if "state" in chosen else {})
        selection = Selection(since=since, **given)
        listed = [each for found, _ in pages(ledger, selection, 7) for each in found]
        assert [each.task_id for each in listed] == [each.task_id for each in rows if fits(each, selection)]


def test_a_page_after_the_bound_is_short_and_goes_on(ledger: SqliteLedger) -> None:
    rows = filled(ledger, 40)
    selection = Selection(queue="a", rule="none")
    found = list(pages(ledger, selection, 10))
    assert [len(page) for page, _ in found] == [0] * 5
    assert found[0][1] == (rows[9].created_at, rows[9].task_id)


def test_a_filter_with_few_rows_needs_no_second_page(ledger: SqliteLedger) -> None:
    filled(ledger, 120)
    ledger.insert(row(task_id="rare", reason="rare", queue="a", created_at=NOW - 5))
    for others in ({}, {"queue": "a"}, {"state": "queued", "rule": "reports"}):
        [(found, after)] = pages(ledger, Selection(reason="rare", **others), 10)
        assert ([each.task_id for each in found], after) == (["rare"], None)


def test_a_callers_page_token_names_only_its_own_tasks(ledger: SqliteLedger) -> None:
    rows = filled(ledger, 120)
    own = {(each.created_at, each.task_id) for each in rows if each.caller == "a"}
    for chosen in CHOICES:
        if "caller" in chosen:
            given = {name: GIVEN[name] for name in chosen} | ({"state": "queued"} if "state" in chosen else {})
            assert {after for _, after in pages(ledger, Selection(**given), 5)} <= own | {None}


def test_in_memory_a_list_examines_fewer_rows(ledger: SqliteLedger) -> None:
    for number in range(EXAMINED_IN_MEMORY + 1):
        ledger.insert(row(task_id=f"{number:032x}", created_at=NOW + number))
    page = ledger.select(Selection(queue="none"), 10)
    assert page.rows == []
    assert page.after == (NOW + 1, f"{1:032x}")
    assert ledger.select(Selection(queue="none", before=page.after), 10).after is None
