"""Formats a record as one line for a terminal, with escapes for control characters. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from traced_relay.formats.terminal import painted, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

_COLOURS = {"DEBUG": "2", "NOTICE": "36", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}
_DIM = "2"


def one_line(entry: Mapping[str, Any], *, colour: bool) -> str:
    severity = printable(str(entry.get("severity", "DEFAULT")))
    columns = (
        painted(printable(str(entry.get("time", ""))[11:23]), _DIM, colour),
        painted(f"{severity:<8}", _COLOURS.get(severity, ""), colour),
        f"{printable(str(entry.get('event') or entry.get('logger', ''))):<18}",
        painted(f"{printable(str(entry.get('task_id') or ''))[:8]:<8}", _DIM, colour),
        printable(str(entry.get("message", ""))),
    )
    return "  ".join(columns) + _stack_trace(entry)


def _stack_trace(entry: Mapping[str, Any]) -> str:
    lines = str(entry.get("stack_trace", "")).splitlines()
    return "".join(f"\n    {printable(line)}" for line in lines)
