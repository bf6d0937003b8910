"""Which files of a directory `gcloud` uploads, as its .gcloudignore says: the last line that matches decides."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from traced_relay.config import settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import PurePath


def read_at_start(given: Mapping[str, str], directory: Path) -> Iterator[Path]:
    """The files without which what is deployed would not start, as they lie beside app.yaml."""
    yield Path(settings.rules_file(given))
    if (otel := settings.otel_file(given, directory)) and not settings.is_untraced(given):
        yield Path(given.get("OTEL_CONFIG_FILE") or otel.relative_to(directory))


def is_uploaded(directory: Path, path: PurePath) -> bool:
    if path.is_absolute() or ".." in path.parts:
        return False
    lines = _lines(directory / ".gcloudignore")
    # Below a directory that is left out, nothing can be taken in again.
    parents = [parent.as_posix() for parent in path.parents if parent.parts]
    return not any(_is_ignored(name, lines, is_directory=name in parents) for name in (*parents, path.as_posix()))


def _lines(file: Path) -> list[str]:
    found = []
    for line in file.read_text().splitlines() if file.exists() else ():
        if line.startswith("#!include:"):
            found += _lines(file.with_name(line.partition(":")[2].strip()))
        elif line.strip() and not line.startswith("#"):
            found.append(line.strip())
    return found


def _is_ignored(name: str, lines: Sequence[str], *, is_directory: bool) -> bool:
    fitting = [line for line in lines if is_directory or not line.endswith("/")]
    matching = [line for line in fitting if _pattern(line.removeprefix("!")).fullmatch(name)]
    return bool(matching) and not matching[-1].startswith("!")


def _pattern(line: str) -> re.Pattern[str]:
    """One without a slash before its end stands for names at any depth."""
    start = "" if "/" in line.rstrip("/") else "(.*/)?"
    words = {"**/": "(.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    body = re.sub(r"\*\*/|\*\*|\*|\?|.", lambda at: words.get(at[0], re.escape(at[0])), line.strip("/"))
    return re.compile(start + body)
