"""A bounded queue of finished spans and one thread that exports them; ending a span never blocks."""

from __future__ import annotations

from collections import deque
from threading import Condition, Thread
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import SpanExportResult

from traced_relay.tracing.attributes import PENDING_SPAN_ID

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

    from traced_relay.runtime.clock import Clock

STARTED_DELAY = 0.2  # seconds
SHUTDOWN_TIMEOUT = 0.5


class Dropped(NamedTuple):
    spans: int
    error: str | None  # the exporter's latest


class BatchProcessor(SpanProcessor):
    """
    Exports a batch *delay* seconds after its first span, or as soon as it has *batch_size* spans.

    Counts a span as dropped if *queue_size* spans are waiting or the exporter fails. A `started` span waits for at
    most STARTED_DELAY: it shows that a call is running.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        clock: Clock,
        *,
        delay: float = 5.0,
        batch_size: int = 512,
        queue_size: int = 2048,
    ) -> None:
        self._exporter = exporter
        self._clock = clock
        self._delay = delay
        self._batch_size = batch_size
        self._queue_size = queue_size
        self._waiting: deque[ReadableSpan] = deque()
        self._due: float | None = None
        self._exporting = 0
        self._dropped = 0
        self._error: str | None = None
        self._flushing = 0
        self._is_shutting_down = False
        self._is_closed = False
        self._has_timed_out = False
        self._changed = Condition()
        self._thread = Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is None or not span.context.trace_flags.sampled:
            return
        is_started = span.attributes is not None and PENDING_SPAN_ID in span.attributes
        with self._changed:
            if self._is_closed or len(self._waiting) + self._exporting >= self._queue_size:
                self._dropped += 1
                return
            self._waiting.append(span)
            due = self._clock.monotonic() + (STARTED_DELAY if is_started else self._delay)
            if self._due is None or due < self._due:
                self._due = due
                self._changed.notify_all()
            elif self._is_shutting_down or len(self._waiting) == self._batch_size:
                self._changed.notify_all()

    def take_dropped(self) -> Dropped:
        """The count since the last call, which starts again at 0."""
        with self._changed:
            dropped = Dropped(self._dropped, self._error)
            self._dropped, self._error = 0, None
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
        Export for at most SHUTDOWN_TIMEOUT and drop the rest.

        Accepts spans for *linger* seconds before that, since interrupted calls still end theirs.
        """
        with self._changed:
            if self._is_shutting_down:
                return
            self._is_shutting_down = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_closed, linger)
            self._is_closed = True
            self._changed.notify_all()
            self._changed.wait_for(self._is_empty, SHUTDOWN_TIMEOUT)
            self._has_timed_out = True
            self._dropped += len(self._waiting) + self._exporting
            self._waiting.clear()
        self._exporter.shutdown()

    def _is_empty(self) -> bool:
        return not self._waiting and not self._exporting

    def _run(self) -> None:
        while batch := self._next_batch():
            is_exported = self._export(batch)
            with self._changed:
                self._exporting = 0
                if not is_exported and not self._has_timed_out:
                    self._dropped += len(batch)
                self._changed.notify_all()

    def _next_batch(self) -> list[ReadableSpan]:
        """Waits until a batch is due; empty after the shutdown."""
        with self._changed:
            while not self._is_batch_due():
                left = None if self._due is None else max(0.0, self._due - self._clock.monotonic())
                self._clock.wait(self._changed, left)
            batch = [self._waiting.popleft() for _ in range(min(self._batch_size, len(self._waiting)))]
            self._exporting = len(batch)
            self._due = self._clock.monotonic() + self._delay if self._waiting else None
            return batch

    def _is_batch_due(self) -> bool:
        if self._is_closed:
            return True
        if not self._waiting:
            self._due = None
            return False
        is_due = self._due is not None and self._due <= self._clock.monotonic()
        return is_due or self._is_shutting_down or self._flushing > 0 or len(self._waiting) >= self._batch_size

    def _export(self, batch: list[ReadableSpan]) -> bool:
        with suppress_instrumentation():
            try:
                is_exported = self._exporter.export(batch) is SpanExportResult.SUCCESS
            except Exception as exc:  # noqa: BLE001  (exporters raise errors of their own; the batch is dropped)
                self._error = " ".join(f"{type(exc).__name__}: {exc}".split())[:200]
                return False
        if not is_exported:
            self._error = "the backend refused them or is unreachable"
        return is_exported
