"""A timeline as text: one line a bar, on one axis, for people. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from traced_relay.client.task_text import attempts_text
from traced_relay.formats.durations import readable, tick_label, tick_step
from traced_relay.formats.terminal import printable

if TYPE_CHECKING:
    from traced_relay.timeline.bars import Bar
    from traced_relay.timeline.build import Timeline

_TIME = 8
_GAPS = 1 + 2 + 2
_LEAST_AXIS, _LEAST_NOTE, _LEAST_LABEL = 20, 12, 9
_OUTCOMES = {"succeeded": "32", "retry": "33", "gave_up": "31", "cancelled": "35", "running": "36"}
_STATES = {"succeeded": "32", "failed": "31", "cancelled": "35"}
_PLAIN, _DIM, _BOLD, _RED, _BLUE, _CYAN = "", "2", "1", "31", "34", "36"
_EIGHTHS = " ▏▎▍▌▋▊▉"
_PHASES = {"token": "░", "connect": "░", "TLS": "░", "answer": "▒", "body": "▓"}
_CELLS_A_TICK = 9


def render(timeline: Timeline, *, width: int = 100, colour: bool = False) -> str:
    """The bars between a header and what is missing; lines are at most *width* long where that is enough at all."""
    drawing = _Drawing(timeline, width, colour)
    return "\n".join(line.rstrip() for line in drawing.lines()) + "\n"


class _Drawing:
    def __init__(self, timeline: Timeline, width: int, colour: bool) -> None:
        self._timeline = timeline
        self._width = max(width, _LEAST_LABEL + _TIME + _GAPS + _LEAST_AXIS + _LEAST_NOTE)
        self._colour = colour
        longest_label = max(len(_label(bar)) for bar in timeline.bars)
        longest_note = max(len(_note(bar)) for bar in timeline.bars)
        self._label = max(_LEAST_LABEL, min(longest_label, self._width // 5))
        free = self._width - self._label - _TIME - _GAPS
        self._note = max(_LEAST_NOTE, min(longest_note, free // 2))
        self._axis = free - self._note
        self._span = timeline.seconds or 0.001

    def lines(self) -> list[str]:
        return [*self._header(), *self._scale(), *(self._line(bar) for bar in self._timeline.bars), *self._footer()]

    def _header(self) -> list[str]:
        timeline = self._timeline
        state = self._paint(printable(timeline.state), _STATES.get(timeline.state, _CYAN))
        why = printable(f" ({timeline.reason}, {timeline.blame})") if timeline.reason else ""
        told = attempts_text(timeline.attempt_count, timeline.round, timeline.lasted)
        so_far = "" if timeline.state in _STATES or timeline.lasted is None else " so far"
        return [
            f"task   {self._paint(printable(timeline.task_id), _BOLD)}",
            f"state  {state}{why}, {told}{so_far}",
            self._fit(f"call   {timeline.call}"),
            self._fit(f"trace  {timeline.trace_id}  queue {timeline.queue}"),
            "",
        ]

    def _scale(self) -> list[str]:
        """Ticks, and over them the times they stand for."""
        step = tick_step(self._span, self._axis // _CELLS_A_TICK)
        names, ticks = " " * self._axis, "─" * self._axis
        for number in range(int(self._span / step) + 1):
            at = min(self._column(self._timeline.start + number * step), self._axis - 1)
            names = _put(names, at, tick_label(number * step))
            ticks = _put(ticks, at, "┬")
        left = " " * (self._label + 1 + _TIME + 2)
        return [left + self._paint(line, _DIM) for line in (names.rstrip(), ticks)]

    def _line(self, bar: Bar) -> str:
        aside = _DIM if bar.kind in ("wait", "downstream", "queue", "moment") else _PLAIN
        label = self._paint(f"{_cut(_label(bar), self._label):<{self._label}}", aside)
        lasted = "" if bar.kind in ("deferred", "moment") else readable(bar.seconds)
        first = min(self._column(bar.start), self._axis - 1)
        drawn = self._drawn(bar, first)
        space = " " * (self._axis - first - len(drawn))
        note = self._paint(_cut(_note(bar), self._note), aside)
        return f"{label} {lasted:>{_TIME}}  {' ' * first}{self._paint(drawn, _tint(bar))}{space}  {note}"

    def _drawn(self, bar: Bar, first: int) -> str:
        cells = (bar.end - self._timeline.start) / self._span * self._axis - first
        drawn = _body(bar, max(cells, 0.125))[: self._axis - first]
        return drawn[:-1] + "▶" if bar.is_open else drawn

    def _column(self, moment: float) -> int:
        return int((moment - self._timeline.start) / self._span * self._axis)

    def _footer(self) -> list[str]:
        missing = [self._paint(self._fit(f"missing: {line}"), _RED) for line in self._timeline.missing]
        return ["", *missing] if missing else []

    def _fit(self, text: str) -> str:
        return _cut(printable(text), self._width)

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour and code and text else text


def _body(bar: Bar, cells: float) -> str:
    whole = max(1, round(cells))
    match bar.kind:
        case "deferred" | "moment":
            return "◆"
        case "queue":
            return "─" * whole
        case "wait":
            return "·" * whole
        case "downstream":
            return _phases(bar, whole)
    full, eighths = divmod(max(1, round(cells * 8)), 8)
    return "█" * full + _EIGHTHS[eighths].strip()


def _phases(bar: Bar, cells: int) -> str:
    """Each part of an exchange as long as its share of it; what nobody measured looks like waiting for the answer."""
    drawn, passed = "", 0.0
    for part in bar.segments:
        passed += part.seconds
        share = round(cells * passed / bar.seconds) if bar.seconds else 0
        drawn += _PHASES.get(part.name, "▒") * (share - len(drawn))
    return drawn[:cells].ljust(cells, "▒")


def _tint(bar: Bar) -> str:
    return _DIM if bar.kind in ("wait", "queue") else _OUTCOMES.get(bar.outcome, _BLUE)


def _label(bar: Bar) -> str:
    return "  " * bar.depth + printable(bar.label)


def _note(bar: Bar) -> str:
    """What the bar says of itself, or else of its parts; of a wait, whose label names the first part, only how long."""
    if bar.note:
        return printable(bar.note)
    told = [f"{part.name} {readable(part.seconds)}" for part in bar.segments if part.seconds >= 0.001]
    if bar.kind == "wait":
        return " + ".join(told).removeprefix(bar.label).lstrip()
    return ", ".join(told)


def _put(line: str, at: int, text: str) -> str:
    return line[:at].ljust(at) + text + line[at + len(text) :]


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
