"""Makes a relay's responses safe to show on a page. Pure."""

from __future__ import annotations

from math import isfinite
from typing import Any

from traced_relay.formats.terminal import printable


def legible(value: Any) -> Any:
    """The value with escapes for invisible characters; raises ValueError for NaN and infinities."""
    match value:
        case str():
            return printable(value)
        case float() if not isfinite(value):
            raise ValueError("JSON has no NaN and no infinities")
        case dict():
            return {legible(name): legible(item) for name, item in value.items()}
        case list():
            return [legible(item) for item in value]
    return value


def visible(text: str) -> str:
    """Multi-line text with escapes for invisible characters other than tabs and line ends."""
    return "\r\n".join(printable(part, keep="\n\t") for part in text.split("\r\n"))
