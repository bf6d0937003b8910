"""
Finished spans on their way out: a bounded queue, and one thread that hands them to an exporter.

Whoever ends a span never waits for it; what finds no room, or is not taken, is counted.
"""

from __future__ import annotations

from collections import deque
from threading import Condition, Thread
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import SpanExportResult

from traced_relay.tracing import attributes

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, Span
    from opentelemetry.sdk.trace.export import SpanExporter

    from traced_relay.runtime.clock import Clock

SOON = 0.2
AT_THE_END = 0.5


class Dropped(NamedTuple):
    """So many spans, and what the exporter said last, if it said anything."""

    spans: int
    why: str | None


class BatchProcessor(SpanProcessor):
    """
    Sends what has gathered *delay* seconds after the first of it, or *size* at once; holds *room* spans.

    The mark of a call that begins is on its way SOON: it is for those that do not end soon.
    """

    def __init__(
        self, exporter: SpanExporter, clock: Clock, *, delay: float = 5.0, size: int = 512, room: int = 2048
    ) -> None:
        self._exporter = exporter
        self._clock = clock
        self._delay = delay
        self._size = size
        self._room = room
        self._waiting: deque[ReadableSpan] = deque()
        self._due: float | None = None
        self._sending = 0
        self._dropped = 0
        self._trouble: str | None = None
        self._flushing = 0
        self._is_ending = False
        self._is_closed = False
        self._has_given_up = False
        self._changed = Condition()
        self._thread = Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing: a span leaves when it has ended."""

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is None or not span.context.trace_flags.sampled:
            return
        is_mark = span.attributes is not None and attributes.PENDING_SPAN_ID in span.attributes
        with self._changed:
            if self._is_closed or len(self._waiting) + self._sending >= self._room:
                self._dropped += 1
                return
            self._waiting.append(span)
            if is_mark or self._is_ending or self._due is None or len(self._waiting) == self._size:
                self._hasten(SOON if is_mark else self._delay)

    def _hasten(self, delay: float) -> None:
        due = self._clock.monotonic() + delay
        if self._due is None or due < self._due:
            self._due = due
            self._changed.notify_all()
        elif self._is_ending or len(self._waiting) == self._size:
            self._changed.notify_all()

    def take_dropped(self) -> Dropped:
        """What was dropped since it was asked last."""
        with self._changed:
            dropped = Dropped(self._dropped, self._trouble)
            self._dropped, self._trouble = 0, None
            return dropped

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        with self._changed:
            self._flushing += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(self._is_empty, timeout_millis / 1000)
            finally:
                self._flushing -= 1

    def shutdown(self, linger: float = 0.0) -> None:
        """
        Send what can be sent within AT_THE_END; the rest is dropped.

        For *linger* seconds before that it still takes spans, of those who have just been told to end.
        """
        with self._changed:
            if self._is_ending:
                return
            self._is_ending = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_closed, linger)
            self._is_closed = True
            self._changed.notify_all()
            self._changed.wait_for(self._is_empty, AT_THE_END)
            self._has_given_up = True
            self._dropped += len(self._waiting) + self._sending
            self._waiting.clear()
        self._exporter.shutdown()

    def _is_empty(self) -> bool:
        return not self._waiting and not self._sending

    def _run(self) -> None:
        while batch := self._next():
            were_taken = self._send(batch)
            with self._changed:
                self._sending = 0
                if not were_taken and not self._has_given_up:
                    self._dropped += len(batch)
                self._changed.notify_all()

    def _next(self) -> list[ReadableSpan]:
        """The next batch, when it is time for it; empty when there is none to come."""
        with self._changed:
            while not self._is_time():
                left = None if self._due is None else max(0.0, self._due - self._clock.monotonic())
                self._clock.wait(self._changed, left)
            batch = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
            self._sending = len(batch)
            self._due = self._clock.monotonic() + self._delay if self._waiting else None
            return batch

    def _is_time(self) -> bool:
        if self._is_closed:
            return True
        if not self._waiting:
            self._due = None
            return False
        is_due = self._due is not None and self._due <= self._clock.monotonic()
        return is_due or self._is_ending or self._flushing > 0 or len(self._waiting) >= self._size

    def _send(self, batch: list[ReadableSpan]) -> bool:
        """Whether the exporter took them; what it sends for that makes no spans."""
        with suppress_instrumentation():
            try:
                were_taken = self._exporter.export(batch) is SpanExportResult.SUCCESS
            except Exception as exc:  # noqa: BLE001  (an exporter that breaks is one that does not take them)
                self._trouble = " ".join(f"{type(exc).__name__}: {exc}".split())[:200]
                return False
        if not were_taken:
            self._trouble = "the backend took none, or could not be reached"
        return were_taken
