"""
What comes out of a log, as records and lines of text, however it is wrapped: as it comes, and bounded. Pure.

Read are JSON objects, one a line or over several, in arrays that may never close, behind what `kubectl logs --prefix`
or `docker compose logs` put in front. A record is there with its last brace, whether its line has ended or not.
"""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    Record = dict[str, Any]

_BOMS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # PowerShell's `>` writes those
_IN_OBJECT = re.compile(r'["{}\n]')
_IN_STRING = re.compile(r'["\\\n]')
_BETWEEN = re.compile(r"[\[\],]{0,2}")  # what of an array is on a line of its own
_PRINTED_OVER_LINES = re.compile(r'\{[ \t\r]*\n\s*"')
_GOES_ON = ' \t\r\n"}]'  # what a line inside an object that is printed over several begins with


def decoded(chunks: Iterable[bytes]) -> Iterator[str]:
    """The text of *chunks*, which may end inside a character; in UTF-8, or in UTF-16 if it says so."""
    decoder: codecs.IncrementalDecoder | None = None
    held = b""
    for chunk in chunks:
        held += chunk
        if decoder is None and len(held) < 2:
            continue
        decoder = decoder or codecs.getincrementaldecoder(_BOMS.get(held[:2], "utf-8-sig"))("replace")
        yield decoder.decode(held)
        held = b""
    decoder = decoder or codecs.getincrementaldecoder("utf-8-sig")("replace")
    yield decoder.decode(held, final=True)


class LogInput:
    """
    Cuts text into what *read* makes records of, and lines of other text.

    *read* gives the records that an object is made of, none if it is of another kind. Of an object or a line longer
    than *longest* characters nothing is kept, and *passed_over* is told so.
    """

    def __init__(
        self, read: Callable[[str], list[Record]], longest: int, passed_over: Callable[[str], None] = lambda _: None
    ) -> None:
        self._read = read
        self._longest = longest
        self._passed_over = passed_over
        self._line = _Kept(longest)
        self._object = _Kept(longest)
        self._depth = 0
        self._is_in_string = self._is_escaped = self._is_new_line = False

    def pieces(self, chunks: Iterable[str]) -> Iterator[Record | str]:
        """Records as dictionaries, and lines of text that are none."""
        for text in chunks:
            at = 0
            while at < len(text):
                step = self._inside if self._depth else self._outside
                at = yield from step(text, at)
        if self._depth and _PRINTED_OVER_LINES.match(self._object.text):  # else it is text with a brace in it
            self._passed_over("the last entry is cut off and is passed over")
            return
        yield from self._give_up()
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
        """Whether the rest of a *line* may be one object, and need not be looked through."""
        return line.endswith(("}", "}\r")) and len(line) <= self._longest

    def _inside(self, text: str, at: int) -> Generator[Record | str, None, int]:
        if self._is_escaped:
            self._is_escaped = False
            self._object.add(text[at])
            return at + 1
        if self._is_new_line:
            self._is_new_line = False
            if text[at] not in _GOES_ON:
                yield from self._give_up()
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
                yield from self._give_up()
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
            self._passed_over(f"an object of more than {self._longest} characters is passed over")
        elif records := self._read(self._object.text):
            self._object.clear()
            yield from records
        else:
            yield from self._give_up()
            return
        self._line.clear()

    def _give_up(self) -> Iterator[str]:
        """What looked like an object is text; one that was torn off ends with its line."""
        if self._object.is_too_long:
            self._passed_over(f"an object of more than {self._longest} characters is passed over")
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
            self._passed_over(f"a line of more than {self._longest} characters is passed over")
        elif not _BETWEEN.fullmatch(line.strip()):
            yield line


class _Kept:
    """Text that grows, up to *longest* characters; of a longer one nothing is left but that it was."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
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
        return self._length > self._longest

    @property
    def text(self) -> str:
        return "".join(self._parts)
