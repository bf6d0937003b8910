"""Durations as in the API (`"1.5s"`, `"24h"`, `"7d"`) and times as in RFC 3339, from and to seconds."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from functools import lru_cache

_PARTS = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,8})h)?(?:(\d{1,10})m)?(?:(\d{1,12}(?:\.\d{1,9})?)s)?", re.ASCII)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")


def parse_duration(text: object) -> float:
    """Seconds of a duration such as `"30s"`, `"1.5s"`, `"5m"` or `"1h30m"`; ValueError names the rule."""
    parts = _PARTS.fullmatch(text) if isinstance(text, str) else None
    if not text or parts is None:
        raise ValueError('must be a duration such as "30s", "1.5s", "5m", "24h" or "7d"')
    days, hours, minutes, seconds = (float(part or 0) for part in parts.groups())
    return days * 86400 + hours * 3600 + minutes * 60 + seconds


def format_duration(seconds: float) -> str:
    """In the largest unit that gives a whole number: 300 is `5m`, 90 is `90s`, a day is `24h`, a week `7d`."""
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds and seconds % length == 0 and (unit != "d" or seconds > length):
            return f"{int(seconds // length)}{unit}"
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def parse_time(text: object) -> float:
    """Seconds since the epoch of an RFC 3339 time with its offset; ValueError names the rule."""
    if isinstance(text, str) and _RFC3339.fullmatch(text):
        try:
            return datetime.fromisoformat(text.upper()).timestamp()
        except (ValueError, OverflowError):
            pass  # the 31st of February, the year 0
    raise ValueError('must be an RFC 3339 time such as "2026-11-21T18:00:00Z"')


def format_time(seconds: float) -> str:
    """RFC 3339 in UTC with microseconds, rounded half to even."""
    part, whole = math.modf(seconds)
    carry, micros = divmod(round(part * 1_000_000), 1_000_000)
    return f"{_second(int(whole) + carry)}.{micros:06d}Z"


@lru_cache(maxsize=64)
def _second(whole: int) -> str:
    return datetime.fromtimestamp(whole, UTC).isoformat().removesuffix("+00:00")


def ms_between(start: float, end: float) -> int:
    """Whole milliseconds from *start* to *end*, both in seconds; 0 if *end* is earlier: clocks differ."""
    return max(0, round((end - start) * 1000))


_LARGER = ((86_400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s"))
_STEPS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400)


def readable(seconds: float) -> str:
    """Rounded for people: `0.4 ms`, `12 ms`, `1.25 s`, `3m 05s`, `2h 10m` and `1d 04h`."""
    if seconds < 0.9995:
        digits = 1 if seconds < 0.00995 else 0
        return f"{round(seconds * 1000, digits):g} ms"
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    whole = round(seconds)
    size, name, part, part_name = next(unit for unit in _LARGER if whole >= unit[0])
    return f"{whole // size}{name} {whole % size // part:02d}{part_name}"


def tick_label(seconds: float) -> str:
    """Label of a tick, which is at a round value: `0`, `200 ms`, `5 s`, `10 m`, `2 h`."""
    if seconds == 0:
        return "0"
    for size, name, _, _ in _LARGER:
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {name}"
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g} ms"


def tick_step(span: float, at_most: int) -> float:
    """The smallest round distance with which *at_most* ticks cover *span*."""
    at_most = max(1, at_most)
    fine = [digit * scale for scale in (0.001, 0.01, 0.1) for digit in (1, 2, 5)]
    days = 86_400.0 * max(1, -(-span // (86_400 * at_most)))
    return next((step for step in (*fine, *_STEPS) if span / step <= at_most), days)
