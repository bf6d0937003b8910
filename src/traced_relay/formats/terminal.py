"""External text for a terminal or the console: no character moves, hides or reverses others."""

from __future__ import annotations

import json
import re
from typing import Any

# Characters without a glyph that `isprintable` accepts: fillers, joiners, variation selectors, a blank.
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


def printable(text: str, *, keep: str = "") -> str:
    """
    The text with escapes such as `\\u202e` for every invisible character but those in *keep*.

    These are control and format characters (also those that change the writing direction), spaces other than U+0020,
    line separators, lone surrogates, undefined code points, and blank letters and marks.
    """
    return "".join(c if c in keep else _escaped(c) for c in text) if not is_printable(text) else text


def _escaped(character: str) -> str:
    return character if is_printable(character) else character.encode("unicode_escape").decode()


def painted(text: str, code: str, colour: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour and code else text


def is_printable(text: str) -> bool:
    return text.isprintable() and _BLANK.search(text) is None


def as_json(value: Any, *, indent: int | None = None) -> str:
    """JSON with unescaped Unicode, and JSON's escapes for invisible characters."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    if is_printable(text.replace("\n", "")):
        return text
    return "".join(c if c == "\n" or is_printable(c) else json.dumps(c)[1:-1] for c in text)
