"""When spans are exported, which are counted as dropped, and that no caller waits."""

from __future__ import annotations

from threading import Condition, Event
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Status

from traced_relay.runtime.clock import ManualClock, SystemClock
from traced_relay.tracing import provider
from traced_relay.tracing.batch_processor import SHUTDOWN_TIMEOUT, STARTED_DELAY, BatchProcessor
from traced_relay.tracing.spans import processing, started

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Tracer

DEADLINE = 5.0


class Kept(SpanExporter):
    """Keeps the batches and returns *answer*; if *held*, blocks until it is released."""

    def __init__(self, answer: SpanExportResult | Exception = SpanExportResult.SUCCESS, *, held: bool = False) -> None:
        self.batches: list[list[str]] = []
        self.answer = answer
        self.begun, self.released, self.is_shut = Event(), Event(), False
        self._changed = Condition()
        if not held:
            self.released.set()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.begun.set()
        self.released.wait(DEADLINE)
        with self._changed:
            self.batches.append([span.name for span in spans])
            self._changed.notify_all()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def shutdown(self) -> None:
        self.is_shut = True

    def wait_for(self, count: int) -> list[list[str]]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.batches) >= count, DEADLINE), self.batches
            return self.batches


class Made:
    def __init__(self, exporter: Kept, **settings: Any) -> None:
        self.clock = ManualClock()
        self.processor = BatchProcessor(exporter, self.clock, **settings)
        self.tracer = provider.tracer_of(
            provider.create_provider(version="v", instance="i", processors=[self.processor])
        )

    def span(self, *names: str) -> None:
        for name in names:
            self.tracer.start_span(name, Context()).end()


@pytest.fixture
def make() -> Iterator[Callable[..., Made]]:
    made: list[Made] = []

    def one(exporter: Kept, **settings: Any) -> Made:
        made.append(Made(exporter, **settings))
        return made[-1]

    yield one
    for each in made:
        each.processor.shutdown()


def test_spans_leave_together_after_the_delay(make: Callable[..., Made]) -> None:
    exporter = Kept()
    made = make(exporter, delay=2.0)
    made.span("a", "b")
    made.clock.advance(1.9)
    made.span("c")
    assert exporter.batches == []
    made.clock.advance(0.2)
    assert exporter.wait_for(1) == [["a", "b", "c"]]
    made.span("d")
    made.clock.advance(2.0)
    assert exporter.wait_for(2)[1] == ["d"]


def test_a_full_batch_leaves_at_once(make: Callable[..., Made]) -> None:
    exporter = Kept()
    made = make(exporter, delay=60.0, batch_size=3)
    made.span("a", "b", "c")
    assert exporter.wait_for(1) == [["a", "b", "c"]]


def test_a_started_span_does_not_wait_for_the_batch(make: Callable[..., Made]) -> None:
    exporter = Kept()
    made = make(exporter, delay=60.0)
    made.span("before")
    with processing(made.tracer, "relay", "t1", task_name="t1-1", attempt=1):
        started(made.tracer, "relay", Context(), at=made.clock.now())
        assert STARTED_DELAY < 1
        made.clock.advance(STARTED_DELAY)
        assert exporter.wait_for(1) == [["before", "process relay started"]]


def test_spans_beyond_the_queue_are_dropped_and_counted(make: Callable[..., Made]) -> None:
    exporter = Kept(held=True)
    made = make(exporter, batch_size=2, queue_size=4)
    made.span(*"ab")
    assert exporter.begun.wait(DEADLINE)
    made.span(*"cdefg")
    assert made.processor.take_dropped() == (3, None)
    assert made.processor.take_dropped() == (0, None)
    exporter.released.set()
    assert exporter.wait_for(2) == [["a", "b"], ["c", "d"]]


@pytest.mark.parametrize("answer", [SpanExportResult.FAILURE, ValueError("broken")])
def test_a_failed_batch_is_counted_and_not_retried(
    make: Callable[..., Made], answer: SpanExportResult | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    exporter = Kept(answer)
    made = make(exporter, batch_size=2)
    made.span(*"ab")
    assert made.processor.force_flush(5000)
    dropped = made.processor.take_dropped()
    why = "the backend refused them or is unreachable" if isinstance(answer, SpanExportResult) else "ValueError: broken"
    assert (dropped.spans, dropped.error) == (2, why)
    exporter.answer = SpanExportResult.SUCCESS
    made.span(*"cd")
    assert made.processor.force_flush(5000)
    assert exporter.batches == [["a", "b"], ["c", "d"]]
    assert made.processor.take_dropped() == (0, None)
    assert caplog.records == []


def test_a_flush_exports_all_without_a_delay(make: Callable[..., Made]) -> None:
    exporter = Kept()
    made = make(exporter, delay=60.0, batch_size=2)
    made.span(*"abcde")
    assert made.processor.force_flush(5000)
    assert [name for batch in exporter.batches for name in batch] == [*"abcde"]


def test_a_shutdown_exports_the_waiting_spans(make: Callable[..., Made]) -> None:
    exporter = Kept()
    made = make(exporter, delay=60.0, batch_size=2)
    made.span(*"abc")
    made.processor.shutdown()
    assert [name for batch in exporter.batches for name in batch] == ["a", "b", "c"]
    made.span("late")
    assert (exporter.is_shut, made.processor.take_dropped()) == (True, (1, None))


def test_a_shutdown_does_not_wait_for_a_hung_exporter(make: Callable[..., Made]) -> None:
    exporter = Kept(held=True)
    made = make(exporter, batch_size=2)
    made.span(*"abc")
    assert exporter.begun.wait(DEADLINE)
    clock = SystemClock()
    began = clock.monotonic()
    made.processor.shutdown()
    assert clock.monotonic() - began < SHUTDOWN_TIMEOUT + 4
    assert made.processor.take_dropped() == (3, None)
    exporter.released.set()


def test_an_unsampled_span_is_not_sent() -> None:
    exporter = Kept()
    processor = BatchProcessor(exporter, ManualClock(), batch_size=1)
    tracer: Tracer = provider.tracer_of(
        provider.create_provider(version="v", instance="i", processors=[processor], ratio=0.0)
    )
    span = tracer.start_span("a", Context())
    span.set_status(Status())
    span.end()
    processor.shutdown()
    assert exporter.batches == []
