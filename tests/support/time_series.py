"""
What Cloud Monitoring would make of points: series that are aligned, each by itself, and then reduced.

Whatever it does not know it refuses: an aligner that does not go with its metric, a reducer that does not go with it.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Any

from google.api.metric_pb2 import MetricDescriptor
from google.cloud.monitoring_v3.types import Aggregation

from support import log_query
from support.log_query import NotUnderstood
from support.monitoring_files import OF_THE_RELAY, metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Group = tuple[str, ...]
Values = list[float]


@dataclass(frozen=True)
class Point:
    """One entry that a metric counts, or one sample; *value* is what a distribution takes from it."""

    series: Mapping[str, Any]
    at: float
    value: float


@dataclass(frozen=True)
class Kind:
    """What the points of a metric are; a distribution keeps them in buckets between *bounds*."""

    metric_kind: str
    value_type: str
    bounds: tuple[float, ...] = ()


OF_CLOUD_TASKS = {
    "cloudtasks.googleapis.com/queue/depth": Kind("GAUGE", "INT64"),
    "cloudtasks.googleapis.com/queue/task_attempt_count": Kind("DELTA", "INT64"),
}

# By Google's description of them; a distribution stays one, of all its values, anything else becomes one number.
ALIGNERS: dict[tuple[str, str], dict[str, Callable[[Values, float], Values]]] = {
    ("DELTA", "INT64"): {
        "ALIGN_DELTA": lambda values, _: [sum(values)],
        "ALIGN_RATE": lambda values, period: [sum(values) / period],
    },
    ("DELTA", "DISTRIBUTION"): {"ALIGN_DELTA": lambda values, _: values},
    ("GAUGE", "INT64"): {"ALIGN_MEAN": lambda values, _: [fmean(values)]},
}
REDUCERS: dict[str, dict[str, Callable[[Values, Sequence[float]], float]]] = {
    "INT64": {"REDUCE_SUM": lambda values, _: sum(values)},
    "DISTRIBUTION": {
        "REDUCE_MEAN": lambda values, _: fmean(values),
        "REDUCE_PERCENTILE_50": lambda values, bounds: percentile(values, 0.50, bounds),
        "REDUCE_PERCENTILE_95": lambda values, bounds: percentile(values, 0.95, bounds),
        "REDUCE_PERCENTILE_99": lambda values, bounds: percentile(values, 0.99, bounds),
    },
}


def type_in(filter_: str) -> str:
    """The one metric that a filter on time series names."""
    (found,) = re.findall(r'metric\.type="([^"]+)"', filter_)
    return str(found)


def kind_of(type_: str) -> Kind:
    if type_ in OF_CLOUD_TASKS:
        return OF_CLOUD_TASKS[type_]
    message = metrics()[type_.removeprefix(OF_THE_RELAY)].message
    metric_kind = MetricDescriptor.MetricKind.Name(message.metric_descriptor.metric_kind)
    value_type = MetricDescriptor.ValueType.Name(message.metric_descriptor.value_type)
    return Kind(metric_kind, value_type, tuple(message.bucket_options.explicit_buckets.bounds))


def only(message: Any, *names: str) -> None:
    """Refuse a message that says more than *names*."""
    if more := {field.name for field, _ in message.ListFields()} - set(names):
        raise NotUnderstood(f"{', '.join(sorted(more))} is not known here")


def ways(
    aggregation: Any, kind: Kind
) -> tuple[Callable[[Values, float], Values], Callable[[Values, Sequence[float]], float]]:
    """How the values of one series, and then those of all in a group, become one."""
    only(aggregation, "alignment_period", "per_series_aligner", "cross_series_reducer", "group_by_fields")
    aligner = Aggregation.Aligner(aggregation.per_series_aligner).name
    reducer = Aggregation.Reducer(aggregation.cross_series_reducer).name
    aligners, reducers = ALIGNERS.get((kind.metric_kind, kind.value_type), {}), REDUCERS.get(kind.value_type, {})
    if aligner not in aligners or reducer not in reducers or aggregation.alignment_period.seconds < 60:
        raise NotUnderstood(f"{aligner} and {reducer} of a {kind.metric_kind} of {kind.value_type}")
    return aligners[aligner], reducers[reducer]


class Selection:
    """The series that a filter chooses among points, and what they come to at a moment."""

    def __init__(self, filter_: str, aggregation: Any, points: Sequence[Point]) -> None:
        self._kind = kind_of(type_in(filter_))
        self._align, self._reduce = ways(aggregation, self._kind)
        self._period = float(aggregation.alignment_period.seconds)
        self._series: dict[str, tuple[Group, list[Point]]] = {}
        for point, series in chosen(filter_, points):
            group = _group(aggregation, point)
            self._series.setdefault(series, (group, []))[1].append(point)

    def at(self, end: float) -> dict[Group, float]:
        """The value of each group, in the window that ends then."""
        groups: dict[Group, Values] = defaultdict(list)
        for group, points in self._series.values():
            if values := [point.value for point in points if end - self._period < point.at <= end]:
                groups[group] += self._align(values, self._period)
        return {group: self._reduce(values, self._kind.bounds) for group, values in groups.items()}


def chosen(filter_: str, points: Sequence[Point]) -> list[tuple[Point, str]]:
    """The points that a filter lets through, each with the series it belongs to."""
    query, known = log_query.read(filter_, log_query.SERIES), dict[str, bool]()
    found = []
    for point in points:
        series = json.dumps(point.series, sort_keys=True)
        if series not in known:
            known[series] = query.matches(point.series)
        if known[series]:
            found.append((point, series))
    return found


def _group(aggregation: Any, point: Point) -> Group:
    paths = [name.replace(".label.", ".labels.") for name in aggregation.group_by_fields]
    return tuple(str(log_query.field_of(point.series, path)) for path in paths)


def percentile(values: Values, part: float, bounds: Sequence[float]) -> float:
    """As far as buckets tell it: how far into its bucket the value must lie if they lie evenly there."""
    before, wanted = 0, part * len(values)
    for low, high in pairwise((0.0, *bounds)):
        inside = sum(low <= value < high for value in values)
        if inside and before + inside >= wanted:
            return low + (high - low) * (wanted - before) / inside
        before += inside
    return bounds[-1] if bounds else math.nan
