"""Cases of a SQLite file only: other versions, foreign files, a full disk."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from support.example_rows import FULL, NOW, TASK_ID, call, row
from support.full_disk import full_disk
from support.ledgers import changed, write
from traced_relay.errors import Unavailable
from traced_relay.ledger.protocol import Selection
from traced_relay.ledger.sqlite import SqliteLedger
from traced_relay.runtime.clock import ManualClock
from traced_relay.tasks.row import Response

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def opened(clock: ManualClock, file: Path) -> Iterator[SqliteLedger]:
    ledger = SqliteLedger(clock, file)
    try:
        yield ledger
    finally:
        ledger.close()


def test_a_large_body_is_written_once(clock: ManualClock, tmp_path: Path) -> None:
    large = call(body=b"x" * 800_000)
    answer = Response(status_code=503, headers={}, body=b"y" * 60_000)
    with opened(clock, tmp_path / "ledger") as ledger:
        ledger.insert(row(call=large))
        ledger.replace(changed(row(call=large), response=answer))
        before = (tmp_path / "ledger-wal").stat().st_size
        now = ledger.get(TASK_ID)
        for attempt in range(1, 6):
            assert now is not None
            assert ledger.replace(changed(now, attempt=attempt))
            ledger.note(TASK_ID, attempt)
            now = ledger.get(TASK_ID)
        assert now == row(call=large, response=answer, attempt=5, noted_attempt=5, revision=7)
        assert before > 860_000
        assert (tmp_path / "ledger-wal").stat().st_size - before < 200_000


def test_a_file_that_is_no_ledger_raises_unavailable(clock: ManualClock, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, and long enough to be looked at " * 100)
    for place in (tmp_path, tmp_path / "missing" / "ledger", tmp_path / "text"):
        with pytest.raises(Unavailable, match="the ledger cannot be used"):
            SqliteLedger(clock, place)


def rewrite(file: Path, statement: str, *values: str) -> None:
    with closing(sqlite3.connect(file)) as raw, raw:
        raw.execute(statement, values)


def test_fields_of_another_version_are_ignored(clock: ManualClock, tmp_path: Path) -> None:
    added = ("$.colour", "$.call.colour", "$.call.retry.colour", "$.call.callback.colour", "$.response.colour")
    with opened(clock, tmp_path / "ledger") as ledger:
        write(ledger, FULL)
        for place in (*added, "$.attempts[0].colour"):
            rewrite(tmp_path / "ledger", "UPDATE tasks SET document = json_set(document, ?, 'red')", place)
        assert ledger.get(TASK_ID) == FULL
        assert len(ledger.select(Selection(kind="callback"), 1).rows) == 1
        assert ledger.replace(changed(FULL))


def test_an_unreadable_row_raises_unavailable(clock: ManualClock, tmp_path: Path) -> None:
    with opened(clock, tmp_path / "ledger") as ledger:
        ledger.insert(row())
        rewrite(tmp_path / "ledger", "UPDATE tasks SET document = json_set(document, '$.state', 'dreaming')")
        with pytest.raises(Unavailable, match=r"cannot read, at `\$\.state`$"):
            ledger.get(TASK_ID)


def test_a_full_disk_leaves_no_partial_write(clock: ManualClock, tmp_path: Path) -> None:
    large = call(body=b"x" * 500_000, labels={"a": "b"})
    with opened(clock, tmp_path / "ledger") as ledger:
        ledger.insert(row(task_id="before"))
        with full_disk():
            for _ in range(2):
                with pytest.raises(Unavailable, match="the ledger cannot be used"):
                    ledger.insert(row(call=large))
        assert ledger.get(TASK_ID) is None
        assert ledger.select(Selection(label=("a", "b")), 1).rows == []
        assert ledger.insert(row(call=large))
        assert ledger.get(TASK_ID) == row(call=large)
        assert ledger.get("before") is not None


@pytest.mark.parametrize("version", [1, 4])
def test_a_ledger_of_another_version_raises_unavailable(clock: ManualClock, tmp_path: Path, version: int) -> None:
    with opened(clock, tmp_path / "ledger") as ledger:
        ledger.insert(row())
    rewrite(tmp_path / "ledger", f"PRAGMA user_version={version}")
    with pytest.raises(Unavailable, match=f"ledger: has schema version {version}; this relay supports 3"):
        SqliteLedger(clock, tmp_path / "ledger")
    rewrite(tmp_path / "ledger", "PRAGMA user_version=3")
    with opened(clock, tmp_path / "ledger") as ledger:
        assert ledger.get(TASK_ID) == row()


@pytest.mark.parametrize("table", ["direct_keys", "key_uses"])
def test_a_table_of_an_earlier_version_is_dropped(tmp_path: Path, table: str) -> None:
    file = tmp_path / "ledger"
    opened = SqliteLedger(ManualClock(NOW), file)
    opened.insert(row())
    opened.close()
    with closing(sqlite3.connect(file)) as database:
        database.execute(f"CREATE TABLE {table} (task_id TEXT)")
    opened = SqliteLedger(ManualClock(NOW), file)
    assert opened.get(TASK_ID) == row()
    opened.close()
    with closing(sqlite3.connect(file)) as database:
        assert table not in {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
