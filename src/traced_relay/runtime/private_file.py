"""SQLite files that only their owner may read: they contain bodies, API keys and the key that signs ID tokens."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_logger = logging.getLogger(__name__)

_OWN = 0o600
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_BESIDE = ("-wal", "-shm", "-journal")  # SQLite gives these the mode of the database


class UnusableFile(OSError):
    """The file must not or cannot be used; the message names it and the reason."""


def make_private(path: Path) -> None:
    """
    Create *path* with mode 0600 unless it exists, and remove all other permissions from it and SQLite's own files.

    A file that is private already is not opened: closing it would release the locks that this process holds on it.
    """
    try:
        _create(path)
    except FileExistsError:
        _check_content(path)
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


def _check_content(path: Path) -> None:
    """Raise sqlite3.DatabaseError if *path* is another kind of file, named by mistake: its mode must not change."""
    found = path.lstat()
    if stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) & _OTHERS and found.st_size:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            database.execute("PRAGMA schema_version")


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
    by_effective_id = os.access in os.supports_effective_ids
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=by_effective_id):
        raise UnusableFile(f"{path}: is not readable and writable for this process")
    if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=by_effective_id):
        raise UnusableFile(
            f"{path.parent}: is not writable for this process, and SQLite keeps files beside {path.name}"
        )
