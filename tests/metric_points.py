"""
What Cloud Monitoring would make of log entries: points of log-based metrics, and conditions that hold or do not.

Windows end at every minute; a condition holds if each of them, for as long as it says, is in violation.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from google.cloud.monitoring_v3.types import Aggregation, AlertPolicy, ComparisonType

import log_query
from log_entry import seconds_of
from monitoring_files import OF_THE_RELAY, extracted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from monitoring_files import Asset

MINUTE = 60.0
Missing = AlertPolicy.Condition.EvaluationMissingData
Group = tuple[str, ...]


@dataclass(frozen=True)
class Point:
    """One entry that a metric counts; *value* is what a distribution takes from it."""

    series: Mapping[str, Any]
    at: float
    value: float


def points_of(metric: Asset, entries: Iterable[Mapping[str, Any]]) -> list[Point]:
    query = log_query.read(metric.message.filter)
    return [_point(metric, entry) for entry in entries if query.matches(entry)]


def _point(metric: Asset, entry: Mapping[str, Any]) -> Point:
    labels = {key: label_of(extractor, entry) for key, extractor in metric.message.label_extractors.items()}
    value = metric.message.value_extractor
    return Point(
        {"metric": {"type": OF_THE_RELAY + metric.id, "labels": labels}, "resource": entry["resource"]},
        seconds_of(dict(entry)),
        float(log_query.field_of(entry, extracted(value))) if value else 1.0,
    )


def label_of(extractor: str, entry: Mapping[str, Any]) -> str:
    """Empty where the field is not there, or is null."""
    found = log_query.field_of(entry, extracted(extractor))
    return "" if found is None else str(found)


def is_absent(condition: Any, points: Sequence[Point], *, began: float, ended: float) -> bool:
    """Whether for so long, somewhere between beginning and end, no point came."""
    chosen = log_query.read(condition.filter, log_query.SERIES)
    times = [began, *sorted(point.at for point in points if chosen.matches(point.series)), ended]
    longest = max(after - before for before, after in pairwise(times))
    return longest >= condition.duration.seconds


def is_exceeded(condition: Any, points: Sequence[Point], *, began: float, ended: float) -> bool:
    (aggregation,) = condition.aggregations
    period = float(aggregation.alignment_period.seconds)
    if condition.comparison == ComparisonType.COMPARISON_LT:
        began += period  # a window that began before there was anything says nothing
    else:
        ended += period
    since: dict[Group, float] = {}
    minutes = range(math.floor(began / MINUTE) + 1, math.ceil(ended / MINUTE) + 1)
    for end in (minute * MINUTE for minute in minutes):
        window = [point for point in points if end - period < point.at <= end]
        violating = _violating(condition, window)
        since = {group: since.get(group, end) for group in violating}
        if any(end - start >= condition.duration.seconds for start in since.values()):
            return True
    return False


def _violating(condition: Any, window: Sequence[Point]) -> set[Group]:
    (aggregation,) = condition.aggregations
    values = _reduced(condition.filter, aggregation, window)
    if condition.denominator_filter:
        (below,) = condition.denominator_aggregations
        all_values = _reduced(condition.denominator_filter, below, window)
        values = {group: values.get(group, 0.0) / of for group, of in all_values.items()}
    if not values and condition.evaluation_missing_data == Missing.EVALUATION_MISSING_DATA_ACTIVE:
        return {()}
    wanted = condition.threshold_value
    if condition.comparison == ComparisonType.COMPARISON_LT:
        return {group for group, value in values.items() if value < wanted}
    # A percentile is told from within its bucket; with the threshold as a bound, what reaches it lies above it.
    is_percentile = aggregation.cross_series_reducer in _PERCENTILES
    return {group for group, value in values.items() if value > wanted or (is_percentile and value == wanted)}


_Reducer, _Aligner = Aggregation.Reducer, Aggregation.Aligner
_PERCENTILES = {_Reducer.REDUCE_PERCENTILE_95: 0.95, _Reducer.REDUCE_PERCENTILE_99: 0.99}


def _reduced(filter_: str, aggregation: Any, window: Sequence[Point]) -> dict[Group, float]:
    """The values of a window by group; of a level, such as a queue's depth, their mean."""
    chosen = log_query.read(filter_, log_query.SERIES)
    groups: dict[Group, list[float]] = defaultdict(list)
    for point in window:
        if chosen.matches(point.series):
            groups[_group(aggregation, point)].append(point.value)
    reducer, is_level = aggregation.cross_series_reducer, aggregation.per_series_aligner == _Aligner.ALIGN_MEAN
    if reducer == _Reducer.REDUCE_SUM:
        return {group: sum(values) / (len(values) if is_level else 1) for group, values in groups.items()}
    return {group: _percentile(values, _PERCENTILES[reducer]) for group, values in groups.items()}


def _group(aggregation: Any, point: Point) -> Group:
    paths = [name.replace(".label.", ".labels.") for name in aggregation.group_by_fields]
    return tuple(str(log_query.field_of(point.series, path)) for path in paths)


def _percentile(values: list[float], part: float) -> float:
    return sorted(values)[math.ceil(part * len(values)) - 1]
