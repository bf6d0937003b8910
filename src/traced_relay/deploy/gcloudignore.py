"""Which files of a directory `gcloud` uploads, by its .gcloudignore."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathspec import GitIgnoreSpec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path, PurePath


def is_uploaded(directory: Path, path: PurePath) -> bool:
    if path.is_absolute() or ".." in path.parts:
        return False
    ignored = GitIgnoreSpec.from_lines(_lines(directory / ".gcloudignore"))
    # A later line cannot include a file of a directory that is ignored.
    names = [path.as_posix(), *(f"{parent.as_posix()}/" for parent in path.parents if parent.parts)]
    return not any(map(ignored.match_file, names))


def _lines(file: Path) -> Iterator[str]:
    for line in file.read_text().splitlines() if file.exists() else ():
        if line.startswith("#!include:"):
            yield from _lines(file.with_name(line.partition(":")[2].strip()))
        else:
            yield line
