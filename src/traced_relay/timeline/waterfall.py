"""Renders a timeline as text: one line per bar, on one time axis. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from traced_relay.client.task_text import attempts_text
from traced_relay.formats.durations import readable, tick_label, tick_step
from traced_relay.formats.terminal import painted, printable

if TYPE_CHECKING:
    from traced_relay.timeline.bars import Bar
    from traced_relay.timeline.build import Timeline

_DURATION_WIDTH = 8
_GAPS = 1 + 2 + 2
_MIN_AXIS, _MIN_NOTE, _MIN_LABEL = 20, 12, 9
_OUTCOMES = {"succeeded": "32", "retry": "33", "gave_up": "31", "cancelled": "35", "running": "36"}
_STATES = {"succeeded": "32", "failed": "31", "cancelled": "35"}
_PLAIN, _DIM, _BOLD, _RED, _BLUE, _CYAN = "", "2", "1", "31", "34", "36"
_EIGHTHS = " ▏▎▍▌▋▊▉"
_PHASES = {"token": "░", "connect": "░", "TLS": "░", "answer": "▒", "body": "▓"}
_CELLS_PER_TICK = 9


def render(timeline: Timeline, *, width: int = 100, colour: bool = False) -> str:
    """Header, axis, bars and missing records; lines are at most *width* long, but at least 54 columns are used."""
    return "\n".join(line.rstrip() for line in _Waterfall(timeline, width, colour).lines()) + "\n"


class _Waterfall:
    def __init__(self, timeline: Timeline, width: int, colour: bool) -> None:
        self._timeline = timeline
        self._width = max(width, _MIN_LABEL + _DURATION_WIDTH + _GAPS + _MIN_AXIS + _MIN_NOTE)
        self._colour = colour
        longest_label = max(len(_label(bar)) for bar in timeline.bars)
        longest_note = max(len(_note(bar)) for bar in timeline.bars)
        self._label = max(_MIN_LABEL, min(longest_label, self._width // 5))
        free = self._width - self._label - _DURATION_WIDTH - _GAPS
        self._note = max(_MIN_NOTE, min(longest_note, free // 2))
        self._axis = free - self._note
        self._span = timeline.seconds or 0.001

    def lines(self) -> list[str]:
        return [*self._header(), *self._ruler(), *(self._row(bar) for bar in self._timeline.bars), *self._missing()]

    def _header(self) -> list[str]:
        timeline = self._timeline
        state = self._paint(printable(timeline.state), _STATES.get(timeline.state, _CYAN))
        reason = printable(f" ({timeline.reason}, {timeline.blame})") if timeline.reason else ""
        attempts = attempts_text(timeline.attempt_count, timeline.round, timeline.duration)
        so_far = "" if timeline.state in _STATES or timeline.duration is None else " so far"
        return [
            f"task   {self._paint(printable(timeline.task_id), _BOLD)}",
            f"state  {state}{reason}, {attempts}{so_far}",
            self._truncated(f"call   {timeline.call}"),
            self._truncated(f"trace  {timeline.trace_id}  queue {timeline.queue}"),
            "",
        ]

    def _ruler(self) -> list[str]:
        """A line of times and a line of ticks."""
        step = tick_step(self._span, self._axis // _CELLS_PER_TICK)
        times, ticks = " " * self._axis, "─" * self._axis
        for count in range(int(self._span / step) + 1):
            at = min(self._column(self._timeline.start + count * step), self._axis - 1)
            times = _overwritten(times, at, tick_label(count * step))
            ticks = _overwritten(ticks, at, "┬")
        left = " " * (self._label + 1 + _DURATION_WIDTH + 2)
        return [left + self._paint(line, _DIM) for line in (times.rstrip(), ticks)]

    def _row(self, bar: Bar) -> str:
        style = _DIM if bar.kind in ("wait", "downstream", "queue", "moment") else _PLAIN
        label = self._paint(f"{_truncated(_label(bar), self._label):<{self._label}}", style)
        duration = "" if bar.kind in ("deferred", "moment") else readable(bar.seconds)
        first = min(self._column(bar.start), self._axis - 1)
        cells = self._cells(bar, first)
        space = " " * (self._axis - first - len(cells))
        note = self._paint(_truncated(_note(bar), self._note), style)
        return (
            f"{label} {duration:>{_DURATION_WIDTH}}  {' ' * first}{self._paint(cells, _colour_of(bar))}{space}  {note}"
        )

    def _cells(self, bar: Bar, first: int) -> str:
        length = (bar.end - self._timeline.start) / self._span * self._axis - first
        cells = _bar_cells(bar, max(length, 0.125))[: self._axis - first]
        return cells[:-1] + "▶" if bar.is_open else cells

    def _column(self, moment: float) -> int:
        return int((moment - self._timeline.start) / self._span * self._axis)

    def _missing(self) -> list[str]:
        missing = [self._paint(self._truncated(f"missing: {line}"), _RED) for line in self._timeline.missing]
        return ["", *missing] if missing else []

    def _truncated(self, text: str) -> str:
        return _truncated(printable(text), self._width)

    def _paint(self, text: str, code: str) -> str:
        return painted(text, code, self._colour and bool(text))


def _bar_cells(bar: Bar, length: float) -> str:
    whole = max(1, round(length))
    match bar.kind:
        case "deferred" | "moment":
            return "◆"
        case "queue":
            return "─" * whole
        case "wait":
            return "·" * whole
        case "downstream":
            return _phase_cells(bar, whole)
    full, eighths = divmod(max(1, round(length * 8)), 8)
    return "█" * full + _EIGHTHS[eighths].strip()


def _phase_cells(bar: Bar, length: int) -> str:
    """Each phase of an exchange in proportion to its time; time without a phase is drawn as waiting for the answer."""
    cells, elapsed = "", 0.0
    for phase in bar.segments:
        elapsed += phase.seconds
        end = round(length * elapsed / bar.seconds) if bar.seconds else 0
        cells += _PHASES.get(phase.name, "▒") * (end - len(cells))
    return cells[:length].ljust(length, "▒")


def _colour_of(bar: Bar) -> str:
    return _DIM if bar.kind in ("wait", "queue") else _OUTCOMES.get(bar.outcome, _BLUE)


def _label(bar: Bar) -> str:
    return "  " * bar.depth + printable(bar.label)


def _note(bar: Bar) -> str:
    """The bar's note, else its segments; a wait's label already names the first segment, so only its time is added."""
    if bar.note:
        return printable(bar.note)
    segments = [f"{part.name} {readable(part.seconds)}" for part in bar.segments if part.seconds >= 0.001]
    if bar.kind == "wait":
        return " + ".join(segments).removeprefix(bar.label).lstrip()
    return ", ".join(segments)


def _overwritten(line: str, at: int, text: str) -> str:
    return line[:at].ljust(at) + text + line[at + len(text) :]


def _truncated(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
