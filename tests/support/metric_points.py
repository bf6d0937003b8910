"""
What Cloud Monitoring would make of log entries: points of log-based metrics, and conditions that hold or do not.

Windows end at every minute; a condition holds if each of them, for as long as it says, is in violation. What a
condition says that is not known here is refused, not passed over.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from google.cloud.monitoring_v3.types import AlertPolicy, ComparisonType

from support import log_query
from support.log_entry import seconds_of
from support.log_query import NotUnderstood
from support.monitoring_files import OF_THE_RELAY, extracted
from support.time_series import Group, Point, Selection, chosen, kind_of, only, type_in, ways

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from support.monitoring_files import Asset

MINUTE = 60.0
Missing = AlertPolicy.Condition.EvaluationMissingData


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
    only(condition, "filter", "aggregations", "duration")
    (aggregation,) = condition.aggregations
    ways(aggregation, kind_of(type_in(condition.filter)))
    if aggregation.group_by_fields:
        raise NotUnderstood("what is absent has no group")
    times = [began, *sorted(point.at for point, _ in chosen(condition.filter, points)), ended]
    longest = max(after - before for before, after in pairwise(times))
    return longest >= condition.duration.seconds


def is_exceeded(condition: Any, points: Sequence[Point], *, began: float, ended: float) -> bool:
    only(condition, "filter", "aggregations", "denominator_filter", "denominator_aggregations", "comparison",
         "threshold_value", "duration", "evaluation_missing_data")  # fmt: skip
    (aggregation,) = condition.aggregations
    period = float(aggregation.alignment_period.seconds)
    if condition.comparison == ComparisonType.COMPARISON_LT:
        began += period  # a window that began before there was anything says nothing
    else:
        ended += period
    above = Selection(condition.filter, aggregation, points)
    below = [Selection(condition.denominator_filter, a, points) for a in condition.denominator_aggregations]
    since: dict[Group, float] = {}
    minutes = range(math.floor(began / MINUTE) + 1, math.ceil(ended / MINUTE) + 1)
    for end in (minute * MINUTE for minute in minutes):
        values = above.at(end)
        for selection in below:
            values = {group: values.get(group, 0.0) / of for group, of in selection.at(end).items()}
        since = {group: since.get(group, end) for group in _violating(condition, values)}
        if any(end - start >= condition.duration.seconds for start in since.values()):
            return True
    return False


def _violating(condition: Any, values: Mapping[Group, float]) -> set[Group]:
    if not values and condition.evaluation_missing_data == Missing.EVALUATION_MISSING_DATA_ACTIVE:
        return {()}
    wanted = condition.threshold_value
    if condition.comparison == ComparisonType.COMPARISON_LT:
        return {group for group, value in values.items() if value < wanted}
    if condition.comparison != ComparisonType.COMPARISON_GT:
        raise NotUnderstood("a threshold is exceeded or fallen short of")
    return {group for group, value in values.items() if value > wanted}
