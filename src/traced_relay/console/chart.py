"""A timeline as the page draws it: positions and widths are percentages of the time axis. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from traced_relay.formats.durations import readable, tick_label, tick_step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traced_relay.timeline.bars import Bar
    from traced_relay.timeline.build import Timeline

TICKS = 8
_MIN_WIDTH = 0.006  # share of the axis that keeps a short bar visible


@dataclass(frozen=True)
class Part:
    name: str
    x: str
    width: str


@dataclass(frozen=True)
class Lane:
    """One bar on its line; *text* lists its segments."""

    bar: Bar
    duration: str
    x: str
    width: str
    parts: tuple[Part, ...]
    heartbeats: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Chart:
    lanes: tuple[Lane, ...]
    ticks: tuple[tuple[str, str], ...]
    duration: str


def chart_of(timeline: Timeline) -> Chart:
    span = timeline.seconds or 0.001
    step = tick_step(span, TICKS)
    ticks = [number * step for number in range(int(span / step) + 1)]
    return Chart(
        lanes=tuple(_lane(bar, timeline.start, span) for bar in timeline.bars),
        ticks=tuple((_percent(tick / span), tick_label(tick)) for tick in ticks if tick < span * 0.97 or tick == 0),
        duration="" if timeline.duration is None else readable(timeline.duration),
    )


def _lane(bar: Bar, start: float, span: float) -> Lane:
    width = max(_MIN_WIDTH, bar.seconds / span)
    x = min((bar.start - start) / span, 1 - width)
    return Lane(
        bar=bar,
        duration="" if bar.kind == "deferred" else readable(bar.seconds),
        x=_percent(x),
        width=_percent(width),
        parts=tuple(_parts(bar, x, width)),
        heartbeats=tuple(_percent((beat - start) / span) for beat in bar.heartbeats if bar.start <= beat <= bar.end),
        text=", ".join(f"{part.name} {readable(part.seconds)}" for part in bar.segments if part.seconds >= 0.0005),
    )


def _parts(bar: Bar, x: float, width: float) -> Iterator[Part]:
    for part in bar.segments:
        share = part.seconds / bar.seconds if bar.seconds else 0.0
        own = min(share, 1.0) * width
        yield Part(part.name.lower().replace(" ", "-"), _percent(x), _percent(own))
        x += own


def _percent(share: float) -> str:
    return f"{max(0.0, share) * 100:.3f}%"
