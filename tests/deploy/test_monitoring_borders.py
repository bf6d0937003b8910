"""How much is just too little for each condition on a metric, and how much is just enough: of records made by hand."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from support.example_records import FINISHED
from support.log_entry import lift
from support.log_query import NotUnderstood
from support.metric_points import is_absent, is_exceeded, points_of
from support.monitoring_files import OF_THE_RELAY, alerts, metric_conditions, metrics
from support.time_series import OF_CLOUD_TASKS, Point, percentile, type_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BOTH = 30  # minutes: for so long everything goes on as it is, where the time is not what is asked about
SWEPT = {"overdue": 0, "oldest_overdue_ms": 0, "running": 0, "workers_lost": 0, "recovered": 0,
         "callbacks_pending": 0, "oldest_callback_ms": 0}  # fmt: skip
Record = tuple[float, dict[str, Any]]


def entry(minute: float, record: dict[str, Any]) -> dict[str, Any]:
    at = datetime.fromtimestamp(minute * 60, UTC).isoformat()
    operation = {"logging.googleapis.com/operation": {"producer": "traced-relay"}} if "task_id" in record else {}
    return lift(json.dumps(record | operation | {"time": at}))


def made(condition: Any, records: Iterable[Record]) -> list[Point]:
    metric = metrics()[type_in(condition.filter).removeprefix(OF_THE_RELAY)]
    return points_of(metric, [entry(minute, record) for minute, record in records])


def attempts(minutes: int, *shares: tuple[str, int, dict[str, Any]], kind: str = "call") -> list[Record]:
    """Every minute, of each share: a rule, how many attempts of it, and what is said of them."""
    about = FINISHED | {"event": "attempt.finished", "kind": kind}
    return [
        (minute, about | {"rule": rule} | said)
        for minute in range(1, minutes + 1)
        for rule, count, said in shares
        for _ in range(count)
    ]


def swept(minutes: Iterable[float], **levels: int) -> list[Record]:
    return [(minute, {"event": "relay.swept"} | SWEPT | levels) for minute in minutes]


def refused(event: str, *told: tuple[str, int], minutes: int = 1) -> list[Record]:
    """Every minute, for each reason, so many refusals."""
    return [
        (minute, {"event": event, "reason": reason})
        for minute in range(1, minutes + 1)
        for reason, count in told
        for _ in range(count)
    ]


def sampled(metric: str, minutes: int, *values: tuple[str, float], **labels: str) -> list[Point]:
    """Cloud Tasks' own: of each queue so much, every minute."""
    type_ = f"cloudtasks.googleapis.com/{metric}"
    assert type_ in OF_CLOUD_TASKS
    return [
        Point(
            {
                "metric": {"type": type_, "labels": labels},
                "resource": {"type": "cloud_tasks_queue", "labels": {"queue_id": queue}},
            },
            minute * 60.0,
            value,
        )
        for minute in range(1, minutes + 1)
        for queue, value in values
    ]


def dispatched(minutes: int, *answered: tuple[str, str]) -> list[Point]:
    """Every minute one dispatch of a queue with each code."""
    count = "queue/task_attempt_count"
    return [point for queue, code in answered for point in sampled(count, minutes, (queue, 1), response_code=code)]


def fires(alert: str, number: int, points: Sequence[Point], *, ended: float = 40) -> bool:
    condition = metric_conditions(alerts()[alert])[number]
    judge = is_exceeded if hasattr(condition, "comparison") else is_absent
    return judge(condition, points, began=0, ended=ended * 60)


def told(alert: str, records: Iterable[Record], number: int = 0, *, ended: float = 40) -> bool:
    return fires(alert, number, made(metric_conditions(alerts()[alert])[number], records), ended=ended)


FAILED, GAVE_UP = {"verdict": "retry"}, {"verdict": "gave_up"}
LONG, SHORT = {"latency_ms": 300_000}, {"latency_ms": 299_999}


@pytest.mark.parametrize(
    ("records", "is_told"),
    [
        (attempts(BOTH, ("one", 4, {}), ("one", 1, FAILED)), False),
        (attempts(BOTH, ("one", 7, {}), ("one", 1, FAILED), ("one", 1, GAVE_UP)), True),
        (attempts(6, ("one", 1, FAILED)), False),
        (attempts(7, ("one", 1, FAILED)), True),
        (attempts(BOTH, ("one", 20, {}), ("two", 2, {}), ("two", 1, FAILED)), True),
        (attempts(BOTH, ("one", 1, FAILED), kind="callback"), False),
        (attempts(BOTH, ("one", 4, {}), ("one", 1, FAILED), ("one", 5, {"verdict": "cancelled"})), False),
        (attempts(BOTH, ("one", 3, {}), ("one", 1, FAILED), ("one", 5, {"verdict": "cancelled"})), True),
    ],
)
def test_failure_ratio_fires_over_a_fifth_for_15_minutes(records: list[Record], is_told: bool) -> None:
    assert told("failure-ratio", records) == is_told


@pytest.mark.parametrize(
    ("records", "is_told"),
    [
        (attempts(BOTH, ("one", 1, SHORT)), False),
        (attempts(BOTH, ("one", 1, LONG)), True),
        (attempts(BOTH, ("one", 19, {}), ("one", 1, LONG)), False),
        (attempts(BOTH, ("one", 18, {}), ("one", 2, LONG)), True),
        (attempts(6, ("one", 1, LONG)), False),
        (attempts(7, ("one", 1, LONG)), True),
        (attempts(BOTH, ("one", 30, {}), ("two", 1, LONG)), True),
        (attempts(BOTH, ("one", 1, LONG), kind="callback"), False),
    ],
)
def test_attempt_latency_fires_at_a_twentieth_for_15_minutes(records: list[Record], is_told: bool) -> None:
    assert told("attempt-latency", records) == is_told


@pytest.mark.parametrize(
    ("alert", "level", "border"),
    [("tasks-overdue", "oldest_overdue_ms", 300_000), ("callbacks-pending", "oldest_callback_ms", 3_600_000)],
)
def test_a_gauge_alert_fires_at_the_first_sweep_over_its_limit(alert: str, level: str, border: int) -> None:
    before = swept(range(1, 10))
    assert not told(alert, before + swept(range(10, 20), **{level: border - 1}))
    assert told(alert, before + swept([10], **{level: border + 1}))


@pytest.mark.parametrize(("number", "quiet", "is_told"), [(0, 4, False), (0, 5, True), (1, 6, False), (1, 7, True)])
def test_a_sweep_is_missed_after_five_minutes(number: int, quiet: int, is_told: bool) -> None:
    records = swept([*range(1, 11), *range(10 + quiet, 41)])
    assert told("sweep-silent", records, number) == is_told


@pytest.mark.parametrize(
    ("number", "records", "is_told"),
    [
        (0, refused("dispatch.rejected", ("not_from_the_queue", 1), ("wrong_audience", 1)), False),
        (0, refused("dispatch.rejected", ("unknown_queue", 1)), True),
        (0, refused("dispatch.rejected", ("no_task_name", 1)), True),
        (1, refused("dispatch.rejected", ("not_from_the_queue", 5), ("no_token", 5)), False),
        (1, refused("dispatch.rejected", ("not_from_the_queue", 6)), True),
        (1, refused("dispatch.rejected", ("no_token", 1), minutes=BOTH), False),
        (1, refused("dispatch.rejected", ("no_token", 2), minutes=BOTH), True),
        (1, refused("enqueue.rejected", ("unknown_caller", 30)), False),
        (2, refused("enqueue.rejected", ("unknown_caller", 20), ("wrong_audience", 20)), False),
        (2, refused("enqueue.rejected", ("unknown_caller", 21)), True),
        (2, refused("enqueue.rejected", ("wrong_audience", 4), minutes=BOTH), False),
        (2, refused("enqueue.rejected", ("wrong_audience", 5), minutes=BOTH), True),
        (2, refused("enqueue.rejected", ("no_token", 500), minutes=2), False),
        (2, refused("dispatch.rejected", ("wrong_audience", 30)), False),
    ],
)
def test_rejected_identities_ignores_a_single_stranger(number: int, records: list[Record], is_told: bool) -> None:
    assert told("rejected-identities", records, number) == is_told


@pytest.mark.parametrize(
    ("points", "is_told"),
    [
        (sampled("queue/depth", BOTH, ("relay", 1000)), False),
        (sampled("queue/depth", 15, ("relay", 1001)), False),
        (sampled("queue/depth", 16, ("relay", 1001)), True),
        (sampled("queue/depth", BOTH, ("relay", 600), ("relay-callbacks", 600)), False),
        (sampled("queue/depth", BOTH, ("another", 5000)), False),
    ],
)
def test_queue_depth_fires_after_15_minutes(points: list[Point], is_told: bool) -> None:
    assert fires("queue-depth", 0, points) == is_told


def test_two_series_of_one_queue_are_added_and_samples_of_one_are_not() -> None:
    here, there = (sampled("queue/depth", BOTH, ("relay", 600), place=place) for place in ("here", "there"))
    assert not fires("queue-depth", 0, here + here)
    assert fires("queue-depth", 0, here + there)


RELAY = "relay"


@pytest.mark.parametrize(
    ("points", "is_told"),
    [
        (dispatched(BOTH, (RELAY, "200"), (RELAY, "500")), False),
        (dispatched(BOTH, (RELAY, "200"), (RELAY, "500"), (RELAY, "404")), True),
        (dispatched(6, (RELAY, "unavailable")), False),
        (dispatched(7, (RELAY, "unavailable")), True),
        *((dispatched(BOTH, (RELAY, code)), False) for code in ("200", "201", "204", "ok", "OK")),
        *((dispatched(BOTH, (RELAY, code)), True) for code in ("ERROR", "internal", "302", "0")),
        (dispatched(BOTH, (RELAY, "ok"), (RELAY, "ok"), ("relay-callbacks", "internal")), True),
        (dispatched(BOTH, (RELAY, "ok"), ("another", "internal")), False),
        (dispatched(BOTH, (RELAY, "internal"), ("another", "ok"), ("another", "OK")), True),
    ],
)
def test_dispatches_failing_fires_over_half_for_10_minutes(points: list[Point], is_told: bool) -> None:
    assert fires("dispatches-failing", 0, points) == is_told


def test_a_percentile_is_as_fine_as_its_buckets() -> None:
    assert percentile([3.0] * 20, 0.95, [1, 5]) == pytest.approx(4.8)
    assert percentile([0.5] * 19 + [3.0], 0.95, [1, 5]) == pytest.approx(1.0)
    assert percentile([9.0], 0.5, [1, 5]) == 5


@pytest.mark.parametrize("more", ["trigger", "forecast_options"])
def test_an_unknown_condition_is_refused(more: str) -> None:
    (condition,) = metric_conditions(alerts()["queue-depth"])
    changed = type(condition)()
    changed.CopyFrom(condition)
    getattr(changed, more).SetInParent()
    with pytest.raises(NotUnderstood, match=more):
        is_exceeded(changed, [], began=0, ended=60)
