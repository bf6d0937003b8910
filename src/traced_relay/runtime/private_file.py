"""SQLite files that only their owner may read: they contain bodies, API keys and the key that signs ID tokens."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

_logger = logging.getLogger(__name__)

_OWN = 0o600
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_BESIDE = ("-wal", "-shm", "-journal")  # SQLite gives these the mode of the database

_COLUMNS = (
    "SELECT entry.name, part.name FROM sqlite_master AS entry, pragma_table_info(entry.name) AS part"
    " WHERE entry.type IN ('table', 'view') AND entry.name NOT GLOB 'sqlite_*'"
)


class UnusableFile(OSError):
    """The file must not or cannot be used; the message names it and the reason."""


def make_private(path: Path, schema: str, version: int = 0, migrated: Collection[int] = ()) -> None:
    """
    Create *path* with mode 0600 unless it exists, and remove all other permissions from it and SQLite's own files.

    Nothing that exists is opened here: closing it would release the locks that this process holds on the database.
    SQLite itself may open it, since it keeps these locks.
    """
    if path.name.startswith(":") or str(path).startswith("file:"):
        raise UnusableFile(f"{path}: must be a file path, not a special name of SQLite")
    try:
        _create(path)
    except FileExistsError:
        check_content(path, schema, version, migrated)
        for file in (path, *(path.with_name(path.name + suffix) for suffix in _BESIDE)):
            _restrict(file)
        _check_access(path)
    except OSError as exc:
        raise UnusableFile(f"{path}: cannot be created: {exc.strerror}") from exc


def _create(path: Path) -> None:
    created = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, _OWN)
    try:
        os.fchmod(created, _OWN)  # the umask may have removed the owner's permissions
    finally:
        os.close(created)


def check_content(path: Path, schema: str, version: int = 0, migrated: Collection[int] = ()) -> None:
    """
    Raise UnusableFile if the database was not made with *schema* and *version*; nothing is changed.

    One of a *migrated* version has the same tables, with other columns.
    """
    found = path.lstat()
    if not (stat.S_ISREG(found.st_mode) and found.st_size and _may(path, os.R_OK)):
        return
    log = path.with_name(f"{path.name}-wal")
    is_whole = not _size(log)  # else SQLite must read the log, and may have to wait
    try:
        _check_tables(path, schema, version, migrated, is_whole=is_whole)
    except UnusableFile:
        if not (is_whole and _size(log)):
            raise
        _check_tables(path, schema, version, migrated, is_whole=False)  # another process opened it meanwhile


def _check_tables(path: Path, schema: str, version: int, migrated: Collection[int], *, is_whole: bool) -> None:
    uri = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if is_whole else ''}"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=1, isolation_level=None)) as database:
            database.execute("BEGIN")  # all from one state, while another process may migrate it
            columns = set(database.execute(_COLUMNS))
            (named,) = database.execute("PRAGMA user_version").fetchone()
            (application,) = database.execute("PRAGMA application_id").fetchone()
    except sqlite3.OperationalError as exc:
        raise UnusableFile(f"{path}: {exc}; is another process using it?") from exc
    except sqlite3.Error as exc:
        raise UnusableFile(f"{path}: {exc}") from exc
    with closing(sqlite3.connect(":memory:")) as model:
        model.executescript(schema)
        known = set(model.execute(_COLUMNS))
    if application:
        raise UnusableFile(
            f"{path}: is a database of another program (application_id {application}); name another file"
        )
    tables, ours = {table for table, _ in columns}, {table for table, _ in known}
    is_complete, is_other_version = tables >= ours, named not in (0, version)
    others = set() if is_complete else tables - ours  # a ledger may keep tables of an earlier version
    foreign = sorted(others | {table for table, _ in known - columns} & tables)
    if foreign and not (is_complete and is_other_version):
        raise UnusableFile(f"{path}: is a database of another program, with the table {foreign[0]}; name another file")
    if is_other_version and named not in migrated:
        raise UnusableFile(f"{path}: has schema version {named}; this relay supports {version}")


def _size(file: Path) -> int:
    """In bytes; 0 if there is none: SQLite removes its log when the last process closes the database."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _may(path: Path, access: int) -> bool:
    return os.access(path, access, effective_ids=os.access in os.supports_effective_ids)


def _restrict(file: Path) -> None:
    try:
        found = file.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISLNK(found.st_mode):
        raise UnusableFile(f"{file}: is a symbolic link; name the file that it points to")
    if not stat.S_ISREG(found.st_mode):
        raise UnusableFile(f"{file}: is not a regular file")
    if found.st_uid != os.geteuid() != 0:
        raise UnusableFile(f"{file}: belongs to another user (uid {found.st_uid}), who could read it")
    mode = stat.S_IMODE(found.st_mode)
    if mode & _OTHERS:
        try:
            file.chmod(_OWN)
        except FileNotFoundError:
            return
        except OSError as exc:
            raise UnusableFile(f"{file}: mode {mode:04o} cannot be changed to 0600: {exc.strerror}") from exc
        _logger.warning(
            "%s had mode %04o, which lets others use it; its mode is 0600 now. It holds bodies and keys:"
            " replace those that others may have read",
            file,
            mode,
        )


def _check_access(path: Path) -> None:
    """Check that SQLite can write the file and create others beside it."""
    if not _may(path, os.R_OK | os.W_OK):
        raise UnusableFile(f"{path}: is not readable and writable for this process")
    if not _may(path.parent, os.W_OK | os.X_OK):
        raise UnusableFile(
            f"{path.parent}: is not writable for this process, and SQLite keeps files beside {path.name}"
        )
