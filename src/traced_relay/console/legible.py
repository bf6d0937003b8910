"""What a relay says as a page can show it, whatever is in it. Pure."""

from __future__ import annotations

import re
from math import isfinite
from typing import Any

_LONE_SURROGATES = re.compile("[\ud800-\udfff]")  # JSON can spell them, UTF-8 cannot
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\r(?!\n)")


def legible(value: Any) -> Any:
    """The same without what no page can hold; ValueError for a number that JSON does not have."""
    match value:
        case str():
            return _LONE_SURROGATES.sub("\N{REPLACEMENT CHARACTER}", value)
        case float() if not isfinite(value):
            raise ValueError("NaN and infinities are no numbers of JSON")
        case dict():
            return {legible(name): legible(item) for name, item in value.items()}
        case list():
            return [legible(item) for item in value]
    return value


def visible(text: str) -> str:
    """With escapes for what a browser would swallow: control characters, but for tabs and the ends of lines."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
