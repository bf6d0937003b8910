"""A record as one line for a terminal. Pure; what a stranger wrote cannot move the cursor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_COLOURS = {"DEBUG": "2", "NOTICE": "36", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}
_DIM = "2"


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


def printable(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _below(entry: Mapping[str, Any]) -> str:
    """A traceback keeps its lines, or nobody can read it."""
    lines = str(entry.get("stack_trace", "")).splitlines()
    return "".join(f"\n    {printable(line)}" for line in lines)


def _painted(text: str, code: str, colour: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour and code else text
