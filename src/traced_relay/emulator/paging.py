"""Lists in pages: a page token holds the place where the next page starts."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, TypeVar

from traced_relay.emulator.errors import invalid

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_QUEUES, MOST_TASKS = 9800, 1000

Item = TypeVar("Item")


def page(items: Iterable[tuple[str, Item]], size: int, token: str, *, most: int) -> tuple[list[Item], str]:
    """The page of *items* (in the order of their places) that *token* asks for, and the token of the next."""
    if size < 0:
        raise invalid("The page size must be non-negative.")
    size = min(size or most, most)
    after = _place(token)
    found: list[Item] = []
    last = ""
    for place, item in items:
        if place <= after:
            continue
        if len(found) == size:
            return found, base64.urlsafe_b64encode(last.encode()).decode()
        found.append(item)
        last = place
    return found, ""


def _place(token: str) -> str:
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise invalid("The page token is invalid.") from None
