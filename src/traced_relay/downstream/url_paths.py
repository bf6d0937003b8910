"""
How servers may read a path. They disagree about escapes, parameters, slashes and dots, so every reading counts.

Tomcat drops `;x` from a segment, IIS reads `\\` as `/` and folds wide letters, others decode twice or accept
overlong UTF-8.
"""

from __future__ import annotations

import re
from unicodedata import normalize

MAX_DECODINGS = 8
_ESCAPES = re.compile(r"%u[0-9a-f]{4}|(?:%[0-9a-f]{2})+", re.IGNORECASE)
# A server may reduce a segment to its dots if they touch no letter, digit or _.
_UNCLEAR = re.compile(r"[\x00-\x1f\x7f]|(?<![\w.])\.+(?![\w.])")


def segments(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part)


def is_clear(path: str) -> bool:
    """Whether no server can find a dot segment or a control character in *path*."""
    decoded = _decoded(path)
    return decoded is not None and _UNCLEAR.search(decoded) is None


def is_below(path: str, prefix: tuple[str, ...]) -> bool:
    """Whether *path* starts with the segments of *prefix*, byte for byte, and no server reads it as leaving them."""
    return not prefix or (f"{path}/".startswith("/".join(("", *prefix, ""))) and is_clear(path))


def may_be_below(path: str, prefix: tuple[str, ...]) -> bool:
    """Whether some server could read *path* as below *prefix*."""
    return not prefix or not is_clear(path) or _names(path)[: len(prefix)] == _names("/".join(prefix))


def _names(path: str) -> tuple[str, ...]:
    """The segments as the most lenient server reads them: decoded, without case, parameters, final dots and spaces."""
    decoded = (_decoded(path) or "").casefold().replace("\\", "/")
    return segments("/".join(part.partition(";")[0].rstrip(". ") for part in decoded.split("/")))


def _decoded(path: str) -> str | None:
    """The path, decoded and with look-alikes folded until it stays the same; None if it is not UTF-8 or never does."""
    try:
        for _ in range(MAX_DECODINGS):
            decoded = normalize("NFKC", _ESCAPES.sub(_decode, path))
            if decoded == path:
                return decoded
            path = decoded
    except UnicodeDecodeError:
        return None
    return None


def _decode(escapes: re.Match[str]) -> str:
    text = escapes[0]
    if text[1] in "uU":  # only IIS decodes these
        return bytes.fromhex(text[2:]).decode("utf-16-be", "surrogatepass")
    return bytes.fromhex(text.replace("%", "")).decode()
