"""Lengths of time as a person says them, in about three digits. Pure."""

from __future__ import annotations

_LARGER = ((86_400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s"))
_STEPS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400)


def readable(seconds: float) -> str:
    """For example `0.4 ms`, `12 ms`, `1.25 s`, `3m 05s`, `2h 10m` and `1d 04h`."""
    if seconds < 0.9995:
        digits = 1 if seconds < 0.00995 else 0
        return f"{round(seconds * 1000, digits):g} ms"
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    whole = round(seconds)
    size, name, part, part_name = next(unit for unit in _LARGER if whole >= unit[0])
    return f"{whole // size}{name} {whole % size // part:02d}{part_name}"


def on_an_axis(seconds: float) -> str:
    """For the round values that ticks stand at: `0`, `200 ms`, `5 s`, `10 m`, `2 h`."""
    if seconds == 0:
        return "0"
    for size, name, _, _ in _LARGER:
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {name}"
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g} ms"


def tick_step(span: float, at_most: int) -> float:
    """The finest round distance between no more than so many ticks over the *span*."""
    at_most = max(1, at_most)
    fine = [digit * scale for scale in (0.001, 0.01, 0.1) for digit in (1, 2, 5)]
    days = 86_400.0 * max(1, -(-span // (86_400 * at_most)))
    return next((step for step in (*fine, *_STEPS) if span / step <= at_most), days)
