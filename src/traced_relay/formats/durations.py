"""Durations as the API writes them (`"1.5s"`, `"24h"`, `"7d"`), times as RFC 3339 does; seconds inside."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_PARTS = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,8})h)?(?:(\d{1,10})m)?(?:(\d{1,12}(?:\.\d{1,9})?)s)?", re.ASCII)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")


def parse_duration(text: object) -> float:
    """Seconds of a duration such as `"30s"`, `"1.5s"`, `"5m"` or `"1h30m"`; ValueError says the rule."""
    parts = _PARTS.fullmatch(text) if isinstance(text, str) else None
    if not text or parts is None:
        raise ValueError('must be a duration such as "30s", "1.5s", "5m", "24h" or "7d"')
    days, hours, minutes, seconds = (float(part or 0) for part in parts.groups())
    return days * 86400 + hours * 3600 + minutes * 60 + seconds


def format_duration(seconds: float) -> str:
    """The largest unit that says it whole: 300 is `5m`, 90 is `90s`, a day is `24h`, a week `7d`."""
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds and seconds % length == 0 and (unit != "d" or seconds > length):
            return f"{int(seconds // length)}{unit}"
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def parse_time(text: object) -> float:
    """Seconds since the epoch of an RFC 3339 time with its offset; ValueError says the rule."""
    if isinstance(text, str) and _RFC3339.fullmatch(text):
        try:
            return datetime.fromisoformat(text.upper()).timestamp()
        except (ValueError, OverflowError):
            pass  # the 31st of February, the year 0
    raise ValueError('must be an RFC 3339 time such as "2026-11-21T18:00:00Z"')


def format_time(seconds: float) -> str:
    """RFC 3339 in UTC with microseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
