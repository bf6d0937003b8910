from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING
from unicodedata import normalize
from urllib.parse import unquote, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.hostile_urls import ORDINARY_PATHS, PATHS
from traced_relay.downstream import url_paths

if TYPE_CHECKING:
    from collections.abc import Callable

PUBLIC = ("public",)


def _resolved(path: str) -> str:
    return posixpath.normpath("/" + path.lstrip("/"))


def _nginx(path: str) -> str:
    """Decodes once, merges slashes, then resolves dots."""
    return _resolved(re.sub("/+", "/", unquote(path)))


def _tomcat(path: str) -> str:
    """Drops parameters, decodes, turns backslashes, then resolves dots."""
    return _resolved(unquote(re.sub(";[^/]*", "", path)).replace("\\", "/"))


def _spring(path: str) -> str:
    """Decodes, then drops parameters, those that were escaped too."""
    return _resolved(re.sub(";[^/]*", "", unquote(path)))


def _iis(path: str) -> str:
    """Knows %u, turns backslashes, folds look-alikes, ignores case and blanks at the end of a name."""
    decoded = unquote(re.sub("(?i)%u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), path))
    parts = normalize("NFKC", decoded).casefold().replace("\\", "/").split("/")
    return _resolved("/".join(part.rstrip(" ") if part.strip(". ") else part.strip() for part in parts))


def _overlong(path: str) -> str:
    """Decodes UTF-8 by shifting bits, as old servers do."""
    found: list[int] = []
    for byte in unquote_to_bytes(path):
        if byte & 0xC0 == 0x80 and found:
            found[-1] = (found[-1] << 6 | byte & 0x3F) & 0x1FFFFF
        else:
            found.append(byte & (0x1F if byte >= 0xC0 else 0xFF))
    return _resolved("".join(map(chr, (code % 0x110000 for code in found))))


def _php(path: str) -> str:
    """A front controller: decodes once more than the server did, and C ends a text at NUL."""
    return _resolved(unquote(unquote(path)).partition("\0")[0])


SERVERS: list[Callable[[str], str]] = [
    lambda path: path,  # Express and Go route what came
    _resolved,
    lambda path: _resolved(unquote(path)),
    *(_nginx, _tomcat, _spring, _iis, _overlong, _php),
    lambda path: _tomcat(_nginx(path)),
    lambda path: _nginx(_tomcat(path)),
    lambda path: _iis(_tomcat(_php(path))),
]
PIECES = st.sampled_from(
    [
        *("/", "/", "/", ".", ".", "..", "..", "public", "private", "a", ";", ";x=1", "\\", "%2e", "%2E", "%2f", "%5c"),
        *("%252e", "%252f", "%25", "25", "2e", "%3b", "%00", "%09", "%20", "%c0%ae", "%c0%af", "%e0%80%ae", "%2525"),
        *("%ef%bc%8e", "%ef%bc%8f", "%u002e", "%uff0e", "%e2%80%a5", "%c3%a9", "%41", "~", "-", "+", "(", ":", "%7e"),
    ]
)


def is_inside(reading: str) -> bool:
    return reading == "/public" or reading.startswith("/public/")


@given(st.lists(PIECES, max_size=10).map(lambda pieces: "/public/" + "".join(pieces)))
def test_every_server_reads_a_path_that_is_below_as_below(path: str) -> None:
    if url_paths.is_below(path, PUBLIC):
        assert [reading for reading in (read(path) for read in SERVERS) if not is_inside(reading)] == []


@given(st.lists(PIECES, max_size=10).map(lambda pieces: "/" + "".join(pieces)))
def test_a_path_that_a_server_reads_as_below_may_be_below(path: str) -> None:
    if any(is_inside(read(path)) for read in SERVERS):
        assert url_paths.may_be_below(path, PUBLIC)


@given(st.text())
def test_no_text_makes_a_reading_raise(path: str) -> None:
    assert url_paths.is_below(path, PUBLIC) <= url_paths.may_be_below(path, PUBLIC)


@pytest.mark.parametrize("path", ORDINARY_PATHS.split())
def test_the_servers_read_every_ordinary_path_as_below(path: str) -> None:
    assert all(is_inside(read(path)) for read in SERVERS)


def test_the_servers_read_most_hostile_paths_as_elsewhere() -> None:
    left = [path for path in PATHS.split() if not all(is_inside(read(path)) for read in SERVERS)]
    assert len(left) >= 80


@pytest.mark.parametrize(("depth", "is_clear"), [(0, True), (3, True), (20, False)])
def test_an_endlessly_escaped_path_is_unclear(depth: int, is_clear: bool) -> None:
    assert url_paths.is_clear("/a%" + "25" * depth + "20b") is is_clear
