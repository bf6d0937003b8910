"""A relay's answers as a page can show them. Pure."""

from __future__ import annotations

from math import isfinite
from typing import Any

from traced_relay.formats.terminal import printable


def legible(value: Any) -> Any:
    """The same with escapes for invisible characters; ValueError for a number that JSON does not have."""
    match value:
        case str():
            return printable(value)
        case float() if not isfinite(value):
            raise ValueError("NaN and infinities are no numbers of JSON")
        case dict():
            return {legible(name): legible(item) for name, item in value.items()}
        case list():
            return [legible(item) for item in value]
    return value


def visible(text: str) -> str:
    """A text of several lines: tabs and the ends of lines stay as they are."""
    return "\r\n".join(printable(part, keep="\n\t") for part in text.split("\r\n"))
