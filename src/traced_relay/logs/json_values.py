"""What any Python value becomes in a line of JSON. Pure; never raises, whatever the value does when it is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

LONGEST_TEXT = 64 * 1024  # bytes; Cloud Logging refuses entries over 256 KB
_CUT = " [cut]"


def as_json(value: object) -> Any:
    """Nothing but what JSON has: other values become their text, NaN and infinities too."""
    try:
        return _plain(value)
    except Exception:  # noqa: BLE001  (a value that contains itself, or that fails when it is read)
        return f"<{type(value).__name__}>"


def as_text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001  (an object that cannot say what it is, or a number of too many digits)
        return f"<{type(value).__name__}>"


def cut(text: str) -> str:
    """At most 64 KiB of UTF-8, and nothing that UTF-8 does not have."""
    if text.isascii() and len(text) <= LONGEST_TEXT:
        return text
    encoded = text.encode(errors="replace")
    if len(encoded) <= LONGEST_TEXT:
        return encoded.decode()
    return encoded[: LONGEST_TEXT - len(_CUT)].decode(errors="ignore") + _CUT


def _plain(value: object) -> Any:
    match value:
        case None | bool():
            return value
        case str():
            return cut(value)
        case int():
            return int(value) if value.bit_length() < 64 else as_text(value)
        case float():
            return float(value) if isfinite(value) else str(value)
        case Mapping():
            return {cut(as_text(key)): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return cut(as_text(value))
