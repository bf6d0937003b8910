from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support.lives import (
    BEGINNING,
    BUSY,
    FLAKY,
    OK,
    TIMEOUT,
    TRACE_ID,
    at,
    attempt,
    document,
    record,
    records,
    span,
    spans,
)
from traced_relay.timeline.bars import key_of
from traced_relay.timeline.build import Timeline, build
from traced_relay.tracing.span_tree import FinishedSpan

if TYPE_CHECKING:
    from traced_relay.timeline.bars import Bar


def rows(timeline: Timeline) -> list[tuple[str, float, float]]:
    return [(bar.label, *extent(bar)) for bar in timeline.bars]


def extent(bar: Bar) -> tuple[float, float]:
    return round(bar.start - BEGINNING, 3), round(bar.end - BEGINNING, 3)


def only(timeline: Timeline, label: str) -> Bar:
    [bar] = [bar for bar in timeline.bars if bar.label == label]
    return bar


def test_bars_are_in_order_of_time() -> None:
    timeline = build(FLAKY, records(FLAKY), spans(FLAKY))
    assert rows(timeline) == [
        ("enqueue", -0.002, 0.006),
        ("send", 0.001, 0.005),
        ("queued", 0.0, 0.015),
        ("attempt 1", 0.015, 0.225),
        ("127.0.0.1", 0.018, 0.221),
        ("backoff", 0.225, 0.66),
        ("attempt 2", 0.66, 0.9),
        ("127.0.0.1", 0.663, 0.896),
        ("Retry-After", 0.9, 2.81),
        ("attempt 3", 2.81, 3.4),
        ("127.0.0.1", 2.813, 3.396),
    ]
    assert timeline.missing == ()
    assert (timeline.state, timeline.attempt_count, timeline.call) == (
        "succeeded",
        3,
        "POST http://127.0.0.1:9000/flaky",
    )
    assert round(timeline.seconds, 3) == 3.402


def test_attempt_note_has_status_verdict_and_blame() -> None:
    timeline = build(document("failed", attempt(1, 0, 1, BUSY), attempt(2, 2, 3, TIMEOUT)), [])
    shown = [(bar.outcome, bar.note) for bar in timeline.bars if bar.kind == "attempt"]
    assert shown == [("retry", "503 retry, downstream"), ("gave_up", "timeout gave_up, downstream")]


def test_wait_is_split_into_delay_and_queue() -> None:
    wait = only(build(FLAKY, []), "backoff")
    assert [(part.name, round(part.seconds, 3)) for part in wait.segments] == [("backoff", 0.42), ("queue", 0.015)]


def test_exchange_without_span_is_as_long_as_its_phases() -> None:
    life = document("succeeded", attempt(1, 1, 2, OK))
    exchange = only(build(life, records(life)), "127.0.0.1")
    assert extent(exchange) == (1.0, 1.993)
    assert [part.name for part in exchange.segments] == ["connect", "answer", "body"]


def test_exchange_with_a_token_starts_with_the_token() -> None:
    life = document("succeeded", attempt(1, 1, 2, OK))
    known = records(life)
    known[2]["timing"]["token_ms"] = 5
    assert extent(only(build(life, known, spans(life)), "127.0.0.1")) == (1.0, 1.996)


def test_exchange_without_record_is_named_after_its_span() -> None:
    life = document("succeeded", attempt(1, 1, 2, OK))
    assert extent(only(build(life, [], spans(life)), "downstream")) == (1.003, 1.996)


def test_document_alone_gives_attempts_and_waits() -> None:
    assert [row[0] for row in rows(build(FLAKY, []))] == [
        "enqueue",
        "queued",
        "attempt 1",
        "backoff",
        "attempt 2",
        "Retry-After",
        "attempt 3",
    ]


@pytest.mark.parametrize(
    ("life", "now", "expected"),
    [
        (document("queued"), 5, [("queued", 0, 5, True, "")]),
        (
            document("queued", schedule_time=at(3600)),
            5,
            [("scheduled", 0, 5, True, "due in 59m 55s")],
        ),
        (
            document("queued", schedule_time=at(3)),
            5,
            [("scheduled", 0, 3, False, ""), ("queued", 3, 5, True, "")],
        ),
        (
            document("running", attempt(1, 1, None, {})),
            9,
            [("queued", 0, 1, False, ""), ("attempt 1", 1, 9, True, "running")],
        ),
        (
            document("running", attempt(1, 1, None, {}), heartbeat_at=at(61)),
            70,
            [("queued", 0, 1, False, ""), ("attempt 1", 1, 70, True, "running, heartbeat at 1m 00s")],
        ),
        (
            document(
                "waiting", attempt(1, 1, 2, BUSY, retry_delay_ms=9000, delay_reason="backoff"), next_attempt_at=at(11)
            ),
            4,
            [
                ("queued", 0, 1, False, ""),
                ("attempt 1", 1, 2, False, "503 retry, downstream"),
                ("backoff", 2, 4, True, "next in 7.00 s"),
            ],
        ),
        (
            document(
                "waiting", attempt(1, 1, 2, BUSY, retry_delay_ms=1000, delay_reason="backoff"), next_attempt_at=at(3)
            ),
            4,
            [
                ("queued", 0, 1, False, ""),
                ("attempt 1", 1, 2, False, "503 retry, downstream"),
                ("backoff", 2, 4, True, ""),
            ],
        ),
        (
            document(
                "cancelled", attempt(1, 1, 2, BUSY, retry_delay_ms=9000, delay_reason="backoff"), finished_at=at(5)
            ),
            8,
            [
                ("queued", 0, 1, False, ""),
                ("attempt 1", 1, 2, False, "503 retry, downstream"),
                ("backoff", 2, 5, False, ""),
            ],
        ),
        (document("cancelled", finished_at=at(5)), 8, [("queued", 0, 5, False, "")]),
        (
            document("succeeded", attempt(1, 1, None, {}), attempt(2, 4, 5, OK)),
            8,
            [
                ("queued", 0, 1, False, ""),
                ("attempt 1", 1, 4, False, "end not recorded"),
                ("attempt 2", 4, 5, False, "200 succeeded"),
            ],
        ),
    ],
)
def test_ongoing_and_cancelled_tasks_have_their_waits(
    life: dict[str, Any], now: float, expected: list[tuple[str, float, float, bool, str]]
) -> None:
    bars = build(life, [], now=BEGINNING + now).bars[1:]
    assert [(bar.label, *extent(bar), bar.is_open, bar.note) for bar in bars] == expected


def test_open_bars_end_at_the_latest_known_time() -> None:
    life = document("running", attempt(1, 1, None, {}))
    beat = record("attempt.heartbeat", at(61), attempt=1)
    assert extent(only(build(life, [beat]), "attempt 1")) == (1.0, 61.0)


def test_redriven_task_is_idle_between_rounds() -> None:
    life = document("succeeded", attempt(1, 1, 2, TIMEOUT), attempt(2, 9, 10, OK, round=2))
    redriven = record("task.redriven", at(8), round=2)
    assert rows(build(life, [redriven]))[3:] == [("idle", 2.0, 8.0), ("queued", 8.0, 9.0), ("attempt 2", 9.0, 10.0)]
    assert rows(build(life, []))[3:] == [("idle", 2.0, 9.0), ("attempt 2", 9.0, 10.0)]


def test_task_redriven_just_now_is_queued() -> None:
    life = document("queued", attempt(1, 1, 2, TIMEOUT), round=2)
    timeline = build(life, [record("task.redriven", at(8), round=2)], now=BEGINNING + 9)
    assert rows(timeline)[3:] == [("idle", 2.0, 8.0), ("queued", 8.0, 9.0)]
    assert [bar.is_open for bar in timeline.bars[3:]] == [False, True]


def test_deferred_dispatch_is_a_marker() -> None:
    life = document("succeeded", attempt(1, 1, 2, OK))
    deferred = record("dispatch.deferred", at(0.5), reason="no_capacity")
    bar = only(build(life, [deferred]), "deferred")
    assert (extent(bar), bar.note) == ((0.5, 0.5), "no_capacity")


def test_callback_bars_follow_their_call() -> None:
    life = document("succeeded", attempt(1, 1, 2, OK))
    of = {"task_id": "ab" * 16, "callback_of": life["task_id"]}
    logged = [
        record("attempt.started", at(3), attempt=1, **of),
        record("attempt.finished", at(4), attempt=1, **of, **BUSY),
        record("attempt.started", at(9), attempt=2, **of),
    ]
    timeline = build(life, [*records(life), *logged], now=BEGINNING + 10)
    shown = [bar for bar in timeline.bars if bar.kind == "callback"]
    assert [(bar.label, *extent(bar), bar.outcome, bar.is_open) for bar in shown] == [
        ("callback 1", 3.0, 4.0, "retry", False),
        ("callback 2", 9.0, 10.0, "running", True),
    ]
    assert extent(next(bar for bar in timeline.bars if bar.start == BEGINNING + 4)) == (4.0, 9.0)
    assert timeline.missing == ()


def test_wait_for_the_next_callback_attempt_is_open() -> None:
    life = document("succeeded", attempt(1, 1, 2, OK))
    of = {"task_id": "ab" * 16, "callback_of": life["task_id"], "attempt": 1}
    logged = [
        record("attempt.started", at(3), **of),
        record("attempt.finished", at(4), **of, **BUSY, retry_delay_ms=9000),
    ]
    last = build(life, [*records(life), *logged], now=BEGINNING + 10).bars[-1]
    assert (last.kind, extent(last), last.is_open) == ("wait", (4.0, 10.0), True)


def test_record_has_the_key_of_its_bar() -> None:
    of = {"task_id": "ab" * 16, "callback_of": FLAKY["task_id"], "attempt": 1}
    more = [record("attempt.started", at(4), **of), record("dispatch.deferred", at(0.01))]
    keys = {bar.key for bar in build(FLAKY, [*records(FLAKY), *more], spans(FLAKY)).bars} - {""}
    record_keys = {key_of(one) for one in [*records(FLAKY), *more]}
    assert (
        keys
        == record_keys - {""}
        == {"enqueue", *(f"attempt {n}" for n in (1, 2, 3)), f"callback {'ab' * 16} 1", key_of(more[1])}
    )
    assert key_of(record("task.finished", at(4))) == ""


def test_callback_without_records_uses_its_document() -> None:
    callback = document("running", attempt(1, 1.0, 1.5, BUSY), attempt(2, 2.0, None, {}), task_id="cb")
    timeline = build(FLAKY, None, callbacks=[callback], now=BEGINNING + 5)
    assert extent(only(timeline, "callback 1")) == (1.0, 1.5)
    assert only(timeline, "callback 2").is_open
    assert timeline.missing == ()


def test_backward_clock_gives_no_negative_bar() -> None:
    life = document("succeeded", attempt(1, -0.5, -0.4, OK))
    assert all(bar.end >= bar.start for bar in build(life, []).bars)


def without(life: dict[str, Any], event: str, **fields: Any) -> list[dict[str, Any]]:
    removed = fields | {"event": event}
    return [one for one in records(life) if any(one.get(name) != value for name, value in removed.items())]


@pytest.mark.parametrize(
    ("life", "known", "missing"),
    [
        (FLAKY, without(FLAKY, "task.enqueued"), ["no record task.enqueued"]),
        (FLAKY, without(FLAKY, "task.finished"), ["no record task.finished of round 1"]),
        (FLAKY, without(FLAKY, "attempt.started", attempt=2), ["attempt 2: no record attempt.started"]),
        (FLAKY, without(FLAKY, "attempt.finished", attempt=3), ["attempt 3: no record attempt.finished"]),
        (
            FLAKY,
            [*records(FLAKY), record("attempt.started", at(3), attempt=4)],
            ["attempt 4: in the records, not in the ledger"],
        ),
    ],
)
def test_missing_records_are_reported(life: dict[str, Any], known: list[dict[str, Any]], missing: list[str]) -> None:
    assert list(build(life, known, spans(life)).missing) == missing


def test_attempt_without_an_end_is_reported() -> None:
    life = document("waiting", attempt(1, 1, None, {}))
    assert build(life, records(life)).missing == ("attempt 1: started, end not recorded",)


def test_running_attempt_is_not_missing_its_end() -> None:
    life = document("running", attempt(1, 1, None, {}))
    assert build(life, records(life), spans(life)).missing == ()


def test_dropped_attempts_are_reported() -> None:
    life = document("succeeded", attempt(7, 1, 2, OK))
    earlier = record("attempt.started", at(0), attempt=6)
    built = build(life, [*records(life), earlier])
    assert built.missing == ("attempts 1 to 6: no longer in the ledger",)
    before = next(bar for bar in built.bars if bar.kind == "wait")
    assert (before.label, before.seconds, before.note) == ("earlier", 1.0, "attempts 1 to 6 no longer stored")


def test_dropped_records_are_not_reported_as_missing() -> None:
    known = [record for record in records(FLAKY) if record["event"] == "task.finished"]
    note = ("its first records and spans are no longer kept here",)
    assert build(FLAKY, known, [], whole_since=FLAKY["created_at"]).missing == note
    assert build(FLAKY, None, None, whole_since=FLAKY["created_at"]).missing == ()
    before = at(-0.001)
    assert build(FLAKY, records(FLAKY), spans(FLAKY), whole_since=before).missing == ()
    assert "no record task.enqueued" in build(FLAKY, known, [], whole_since=before).missing


def test_missing_spans_are_reported() -> None:
    every = spans(FLAKY)
    assert build(FLAKY, records(FLAKY), []).missing == (
        "no span send",
        "attempt 1: no span 0000000000000001",
        "attempt 2: no span 0000000000000002",
        "attempt 3: no span 0000000000000003",
    )
    without_send = [one for one in every if one.kind != "PRODUCER"]
    lost_parent = "span POST /dispatch: parent bbbbbbbbbbbbbbbb is missing"
    assert build(FLAKY, records(FLAKY), without_send).missing == ("no span send", *[lost_parent] * 3)
    assert build(FLAKY, records(FLAKY), None).missing == ()


def test_other_tasks_of_the_same_trace_are_left_out() -> None:
    other = FinishedSpan(
        "process relay", "CONSUMER", TRACE_ID, "e" * 16, "f" * 16, 0, 1, "UNSET", {"messaging.message.id": "ab" * 16}
    )
    stray = span("SERVER", "POST /dispatch", "9" * 16, "8" * 16, 50, 60)
    assert build(FLAKY, records(FLAKY), [*spans(FLAKY), other, stray]) == build(FLAKY, records(FLAKY), spans(FLAKY))


def test_adopted_task_misses_no_enqueue() -> None:
    life = document("succeeded", attempt(1, 1, 2, OK, task_name="made-by-hand"))
    known = [one for one in records(life) if one["event"] != "task.enqueued"]
    own = [one for one in spans(life) if one.span_id[0] not in "ab"]
    assert build(life, known, own).missing == ()
