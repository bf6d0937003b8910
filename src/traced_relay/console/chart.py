"""A timeline as the page draws it: every length a share of the axis, in percent. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from traced_relay.formats.durations import readable, tick_label, tick_step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traced_relay.timeline.bars import Bar
    from traced_relay.timeline.build import Timeline

TICKS = 8
_THINNEST = 0.6  # what is shorter still has to be seen


@dataclass(frozen=True)
class Part:
    name: str
    x: str
    width: str


@dataclass(frozen=True)
class Lane:
    """One bar on its line; *tells* are its parts in words."""

    bar: Bar
    lasted: str
    x: str
    width: str
    parts: tuple[Part, ...]
    beats: tuple[str, ...]
    tells: str


@dataclass(frozen=True)
class Drawing:
    lanes: tuple[Lane, ...]
    ticks: tuple[tuple[str, str], ...]
    lasted: str


def draw(timeline: Timeline) -> Drawing:
    span = timeline.seconds or 0.001
    step = tick_step(span, TICKS)
    ticks = [number * step for number in range(int(span / step) + 1)]
    return Drawing(
        lanes=tuple(_lane(bar, timeline.start, span) for bar in timeline.bars),
        ticks=tuple((_percent(tick / span), tick_label(tick)) for tick in ticks if tick < span * 0.97 or tick == 0),
        lasted="" if timeline.lasted is None else readable(timeline.lasted),
    )


def _lane(bar: Bar, start: float, span: float) -> Lane:
    width = max(_THINNEST / 100, bar.seconds / span)
    x = min((bar.start - start) / span, 1 - width)
    return Lane(
        bar=bar,
        lasted="" if bar.kind == "deferred" else readable(bar.seconds),
        x=_percent(x),
        width=_percent(width),
        parts=tuple(_parts(bar, x, width)),
        beats=tuple(_percent((beat - start) / span) for beat in bar.beats if bar.start <= beat <= bar.end),
        tells=", ".join(f"{part.name} {readable(part.seconds)}" for part in bar.segments if part.seconds >= 0.0005),
    )


def _parts(bar: Bar, x: float, width: float) -> Iterator[Part]:
    for part in bar.segments:
        share = part.seconds / bar.seconds if bar.seconds else 0.0
        own = min(share, 1.0) * width
        yield Part(part.name.lower().replace(" ", "-"), _percent(x), _percent(own))
        x += own


def _percent(share: float) -> str:
    return f"{max(0.0, share) * 100:.3f}%"
