"""
Splits a stream of log text into records and other lines, within bounded memory. Pure.

Reads JSON objects on one line or several, in arrays that may never end, and behind the prefixes of `kubectl logs
--prefix` and `docker compose logs`. Yields a record at its last brace, before its line ends.
"""

from __future__ import annotations

import codecs
import re
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    Record = dict[str, Any]

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # PowerShell's `>` writes them
_IN_OBJECT = re.compile(r'["{}\n]')
_IN_STRING = re.compile(r'["\\\n]')
_PUNCTUATION = re.compile(r"[\[\],]{0,2}")  # of an array, on a line of its own
_CONTINUATION = ' \t\r\n"}]'  # first characters of a further line of an object
_INDENTED = re.compile(r'\{[ \t\r]*\n\s*"')


def decoded(chunks: Iterable[bytes]) -> Iterator[str]:
    """Decodes UTF-8, or UTF-16 with a byte order mark; a chunk may end inside a character."""
    rest, start = iter(chunks), b""
    while len(start) < 2 and (chunk := next(rest, None)) is not None:
        start += chunk
    encoding = "utf-16" if start[:2] in _UTF16_MARKS else "utf-8-sig"
    yield from codecs.iterdecode(chain([start], rest), encoding, "replace")


class LogInput:
    """
    Splits text into records and other lines.

    *read* returns the records in an object; empty if it contains none. Objects and lines of more than *max_length*
    characters are skipped, and *on_skip* gets a message.
    """

    def __init__(
        self, read: Callable[[str], list[Record]], max_length: int, on_skip: Callable[[str], None] = lambda _: None
    ) -> None:
        self._read = read
        self._max_length = max_length
        self._on_skip = on_skip
        self._line = _BoundedText(max_length)
        self._object = _BoundedText(max_length)
        self._depth = 0
        self._is_in_string = self._is_escaped = self._is_new_line = False

    def pieces(self, chunks: Iterable[str]) -> Iterator[Record | str]:
        """Records as dictionaries, other lines as strings."""
        for text in chunks:
            at = 0
            while at < len(text):
                step = self._inside if self._depth else self._outside
                at = yield from step(text, at)
        if self._depth and _INDENTED.match(self._object.text):  # else it is text with a brace in it
            self._on_skip("the last entry is cut off and is skipped")
            return
        yield from self._as_text()
        yield from self._end_line()

    def _outside(self, text: str, at: int) -> Generator[Record | str, None, int]:
        end, brace = text.find("\n", at), text.find("{", at)
        if brace < 0 or 0 <= end < brace:
            self._line.add(text[at : end if end >= 0 else len(text)])
            if end < 0:
                return len(text)
            yield from self._end_line()
            return end + 1
        if self._is_whole(text[brace : max(end, 0)]) and (records := self._read(text[brace:end])):
            yield from records
            self._line.clear()
            return end + 1
        self._line.add(text[at:brace])
        self._object.add("{")
        self._depth = 1
        return brace + 1

    def _is_whole(self, line: str) -> bool:
        """Whether *line* may be one object, so that it can be read without a scan."""
        return line.endswith(("}", "}\r")) and len(line) <= self._max_length

    def _inside(self, text: str, at: int) -> Generator[Record | str, None, int]:
        if self._is_escaped:
            self._is_escaped = False
            self._object.add(text[at])
            return at + 1
        if self._is_new_line:
            self._is_new_line = False
            if text[at] not in _CONTINUATION:
                yield from self._as_text()
                return at
        found = (_IN_STRING if self._is_in_string else _IN_OBJECT).search(text, at)
        if found is None:
            self._object.add(text[at:])
            return len(text)
        self._object.add(text[at : found.end()])
        match found[0]:
            case "\\":
                self._is_escaped = True
            case '"':
                self._is_in_string = not self._is_in_string
            case "\n" if self._is_in_string:
                yield from self._as_text()
            case "\n":
                self._is_new_line = True
            case brace:
                self._depth += 1 if brace == "{" else -1
                if self._depth == 0:
                    yield from self._end_object()
        return found.end()

    def _end_object(self) -> Iterator[Record | str]:
        if self._object.is_too_long:
            self._object.clear()
            self._on_skip(f"an object of more than {self._max_length} characters is skipped")
        elif records := self._read(self._object.text):
            self._object.clear()
            yield from records
        else:
            yield from self._as_text()
            return
        self._line.clear()

    def _as_text(self) -> Iterator[str]:
        """Treats an unfinished or unknown object as text."""
        if self._object.is_too_long:
            self._on_skip(f"an object of more than {self._max_length} characters is skipped")
        *lines, last = self._object.text.split("\n")
        self._object.clear()
        self._depth, self._is_in_string, self._is_escaped, self._is_new_line = 0, False, False, False
        for line in lines:
            self._line.add(line)
            yield from self._end_line()
        self._line.add(last)

    def _end_line(self) -> Iterator[str]:
        line, is_too_long = self._line.text.rstrip("\r").lstrip("\ufeff"), self._line.is_too_long
        self._line.clear()
        if is_too_long:
            self._on_skip(f"a line of more than {self._max_length} characters is skipped")
        elif not _PUNCTUATION.fullmatch(line.strip()):
            yield line


class _BoundedText:
    """Text of up to *max_length* characters; a longer one is discarded."""

    def __init__(self, max_length: int) -> None:
        self._max_length = max_length
        self.clear()

    def clear(self) -> None:
        self._parts: list[str] = []
        self._length = 0

    def add(self, part: str) -> None:
        self._length += len(part)
        if self.is_too_long:
            self._parts.clear()
        else:
            self._parts.append(part)

    @property
    def is_too_long(self) -> bool:
        return self._length > self._max_length

    @property
    def text(self) -> str:
        return "".join(self._parts)
