"""Who may read the files of ledger and queue, whatever the umask, and what is refused."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import stat
import sys
from contextlib import chdir, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.example_rows import TASK_ID, row
from traced_relay.emulator.emulator import LocalQueue
from traced_relay.errors import InvalidSettings, Unavailable
from traced_relay.ledger.sqlite import SqliteLedger
from traced_relay.ledger.sqlite_file import check_file
from traced_relay.runtime.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

QUEUE = "projects/p/locations/us-central1/queues/q"


def use_ledger(file: Path) -> None:
    with closing(SqliteLedger(ManualClock(), file)) as ledger:
        ledger.insert(row())
        check_modes(file.parent)


def use_queue(file: Path) -> None:
    with LocalQueue(data=file) as queue:
        queue.add_queue(QUEUE)
        check_modes(file.parent)


BOTH = pytest.mark.parametrize("use", [use_ledger, use_queue], ids=["ledger", "queue"])


def check_modes(directory: Path) -> None:
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()}
    assert len(modes) >= 2, modes
    assert set(modes.values()) == {0o600}, modes


@contextmanager
def umask(bits: int) -> Iterator[None]:
    before = os.umask(bits)
    try:
        yield
    finally:
        os.umask(before)


@BOTH
@pytest.mark.parametrize("bits", [0o000, 0o022, 0o077, 0o777])
def test_files_are_0600_under_every_umask(use: Callable[[Path], None], bits: int, tmp_path: Path) -> None:
    with umask(bits):
        use(tmp_path / "data")


@BOTH
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o666, 0o620])
def test_a_readable_file_is_restricted_with_one_warning(
    use: Callable[[Path], None], mode: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "data"
    use(file)
    (tmp_path / "data-wal").touch()
    for left in tmp_path.iterdir():
        left.chmod(mode)
    with caplog.at_level(logging.WARNING, "traced_relay.runtime.private_file"):
        use(file)
        said = caplog.messages[:]
        use(file)
    assert [text.split(",")[0] for text in said] == [f"{name} had mode {mode:04o}" for name in (file, f"{file}-wal")]
    assert caplog.messages == said


def refusal(use: Callable[[Path], None], file: Path) -> str:
    with pytest.raises((InvalidSettings, Unavailable)) as refused:
        use(file)
    text = str(refused.value)
    return text.removeprefix("the ledger cannot be used: ").removeprefix("queue data ")


@BOTH
def test_a_symbolic_link_is_refused(use: Callable[[Path], None], tmp_path: Path) -> None:
    file = tmp_path / "data"
    for target in ("real", "missing"):
        (tmp_path / "real").touch(0o600)
        file.symlink_to(tmp_path / target)
        assert refusal(use, file) == f"{file}: is a symbolic link; name the file that it points to"
        assert not (tmp_path / "missing").exists()
        file.unlink()
    file.touch(0o600)
    beside = tmp_path / "data-wal"
    beside.symlink_to(tmp_path / "real")
    assert refusal(use, file) == f"{beside}: is a symbolic link; name the file that it points to"


@BOTH
def test_an_irregular_file_is_refused(use: Callable[[Path], None], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for place in (tmp_path, tmp_path / "fifo"):
        assert refusal(use, place) == f"{place}: is not a regular file"
    missing = tmp_path / "missing" / "data"
    assert refusal(use, missing) == f"{missing}: cannot be created: No such file or directory"


@BOTH
def test_a_file_of_another_kind_keeps_its_mode(use: Callable[[Path], None], tmp_path: Path) -> None:
    file = tmp_path / "what? 100%.txt"
    file.write_text("notes of somebody, and long enough to be looked at " * 20)
    file.chmod(0o644)
    assert refusal(use, file) == f"{file}: file is not a database"
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


FOREIGN = {
    "another table": ("CREATE TABLE people (name TEXT)", "with the table people; name another file"),
    "a table of the same name": ("CREATE TABLE tasks (title TEXT)", "with the table tasks; name another file"),
    "a view": ("CREATE VIEW all_of_it AS SELECT 1 AS one", "with the table all_of_it; name another file"),
    "another application": ("PRAGMA application_id=7", "is a database of another program (application_id 7)"),
    "another version": ("PRAGMA user_version=77", "has schema version 77; this relay supports"),
}


@BOTH
@pytest.mark.parametrize("mode", [0o644, 0o600])
@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
@pytest.mark.parametrize("name", FOREIGN)
def test_a_database_of_another_program_is_not_changed(
    use: Callable[[Path], None], name: str, journal: str, mode: int, tmp_path: Path
) -> None:
    file = tmp_path / "other.db"
    statement, expected = FOREIGN[name]
    with closing(sqlite3.connect(file)) as database:
        database.execute(f"PRAGMA journal_mode={journal}")
        database.execute(statement)
        file.chmod(mode)
        before = file.read_bytes()
        assert expected in refusal(use, file)
    text = refusal(use, file)
    assert text.startswith(f"{file}: ")
    assert expected in text
    assert stat.S_IMODE(file.stat().st_mode) == mode
    assert before == file.read_bytes() or journal == "WAL"
    assert [one.name for one in tmp_path.iterdir()] == ["other.db"]


@BOTH
@pytest.mark.parametrize("name", [":memory:", "file:x?mode=memory"])
def test_a_name_that_only_sqlite_understands_is_refused(use: Callable[[Path], None], name: str, tmp_path: Path) -> None:
    with chdir(tmp_path):
        text = refusal(use, Path(name))
    assert text == f"{name}: must be a file path, not a special name of SQLite"
    assert list(tmp_path.iterdir()) == []


def test_ledger_and_queue_do_not_share_a_file(tmp_path: Path) -> None:
    use_ledger(tmp_path / "data")
    assert "is a database of another program" in refusal(use_queue, tmp_path / "data")
    use_ledger(tmp_path / "data")


def test_a_ledger_whose_log_was_not_written_back_is_used(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    with closing(SqliteLedger(ManualClock(), tmp_path / "data")) as ledger:
        ledger.insert(row())
        for file in ("data", "data-wal"):
            shutil.copy(tmp_path / file, tmp_path / "copy")
    assert (tmp_path / "copy" / "data-wal").stat().st_size
    with closing(SqliteLedger(ManualClock(), tmp_path / "copy" / "data")) as ledger:
        assert ledger.get(TASK_ID) == row()


def test_a_log_that_vanishes_during_the_check_is_no_failure(tmp_path: Path) -> None:
    file, log = tmp_path / "data", tmp_path / "data-wal"
    SqliteLedger(ManualClock(), file).close()
    log.write_bytes(b"x")
    removed = []

    def remove_once_seen(frame: FrameType, event: str, called: Any) -> None:
        if event == "c_return" and called is os.stat and log in frame.f_locals.values():
            log.unlink(missing_ok=True)
            removed.append(log)

    sys.setprofile(remove_once_seen)
    try:
        check_file(file)
    finally:
        sys.setprofile(None)
    assert removed


@contextmanager
def somebody_else() -> Iterator[None]:
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can stand for two users")


@as_root
@BOTH
def test_a_file_of_another_user_is_refused(use: Callable[[Path], None], tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.touch(0o666)
    for directory in (tmp_path, *list(tmp_path.parents)[:3]):
        directory.chmod(0o755)
    with somebody_else():
        assert refusal(use, file) == f"{file}: belongs to another user (uid 0), who could read it"
        assert refusal(use, tmp_path / "new") == f"{tmp_path / 'new'}: cannot be created: Permission denied"


@as_root
@BOTH
def test_a_file_that_cannot_be_written_is_refused(use: Callable[[Path], None], tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.touch()
    file.chmod(0o400)
    os.chown(file, 65_534, -1)
    for directory in (tmp_path, *list(tmp_path.parents)[:3]):
        directory.chmod(0o755)
    with somebody_else():
        assert refusal(use, file) == f"{file}: is not readable and writable for this process"
        file.chmod(0o600)
        why = "is not writable for this process, and SQLite keeps files beside data"
        assert refusal(use, file) == f"{tmp_path}: {why}"
