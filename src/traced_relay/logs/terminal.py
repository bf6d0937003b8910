"""
A record as one line for a terminal, and the rule how text from outside is shown there and in the console. Pure.

Such a text cannot move the cursor, change the direction of writing, or hide characters between others.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_COLOURS = {"DEBUG": "2", "NOTICE": "36", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}
_DIM = "2"
# What `isprintable` lets pass without a glyph of its own: fillers, joiners, selectors of variants, a blank.
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


def one_line(entry: Mapping[str, Any], *, colour: bool) -> str:
    severity = printable(str(entry.get("severity", "DEFAULT")))
    columns = (
        _painted(printable(str(entry.get("time", ""))[11:23]), _DIM, colour),
        _painted(f"{severity:<8}", _COLOURS.get(severity, ""), colour),
        f"{printable(str(entry.get('event') or entry.get('logger', ''))):<18}",
        _painted(f"{printable(str(entry.get('task_id') or ''))[:8]:<8}", _DIM, colour),
        printable(str(entry.get("message", ""))),
    )
    return "  ".join(columns) + _below(entry)


def printable(text: str, *, keep: str = "") -> str:
    """
    The text with escapes such as `\\u202e` for every character that would not be seen, but for those to *keep*.

    These are control and format characters (also those that change the direction of writing), spaces other than the
    usual one, separators of lines, lone surrogates, what Unicode does not define, and blank letters and marks.
    """
    return "".join(c if c in keep else _escaped(c) for c in text) if not is_printable(text) else text


def is_printable(text: str) -> bool:
    return text.isprintable() and _BLANK.search(text) is None


def as_json(value: Any, *, indent: int | None = None) -> str:
    """JSON in its own characters, and escapes of JSON's own for those that would not be seen."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    if is_printable(text.replace("\n", "")):
        return text
    return "".join(c if c == "\n" or is_printable(c) else json.dumps(c)[1:-1] for c in text)


def _escaped(character: str) -> str:
    return character if is_printable(character) else character.encode("unicode_escape").decode()


def _below(entry: Mapping[str, Any]) -> str:
    """A traceback keeps its lines, or nobody can read it."""
    lines = str(entry.get("stack_trace", "")).splitlines()
    return "".join(f"\n    {printable(line)}" for line in lines)


def _painted(text: str, code: str, colour: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour and code else text
