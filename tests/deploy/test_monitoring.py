from __future__ import annotations

import ast
import re
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

import pytest
from google.cloud.logging_v2.types import LogMetric
from google.cloud.monitoring_dashboard_v1.types import Dashboard, XyChart
from google.cloud.monitoring_v3.types import Aggregation, AlertPolicy, ComparisonType
from google.protobuf import json_format

from support import log_query
from support.house import modules
from support.monitoring_files import (
    FOLDER,
    OF_THE_RELAY,
    PLACEHOLDERS,
    alerts,
    chart_queries,
    dashboard,
    extracted,
    log_condition,
    message_of,
    metric_conditions,
    metrics,
    queries_in,
    series_filters,
)
from support.schema import SCHEMA
from support.time_series import OF_CLOUD_TASKS, kind_of, type_in, ways

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.monitoring_files import Asset

# Every value that one of these can have is known beforehand: names in relay.yaml and the contract's words.
BOUNDED = {"kind", "queue", "rule", "verdict", "reason", "blame", "state", "delay_reason", "event"}
LABELS_OF_CLOUD_TASKS = {
    "cloudtasks.googleapis.com/queue/depth": set[str](),
    "cloudtasks.googleapis.com/queue/task_attempt_count": {"response_code"},
}
OF_A_QUEUE = {"queue_id", "location", "project_id", "target_type"}
ALERTS = [pytest.param(alert, id=alert.id) for alert in alerts().values()]
METRICS = [pytest.param(metric, id=metric.id) for metric in metrics().values()]


def log_filters() -> Iterator[tuple[str, list[str]]]:
    """Every filter on records, with the extractors that go with it."""
    for metric in metrics().values():
        message = metric.message
        yield message.filter, [*message.label_extractors.values(), *filter(None, [message.value_extractor])]
    for alert in alerts().values():
        if (condition := log_condition(alert)) is not None:
            yield condition.filter, [*condition.label_extractors.values()]
        for query in queries_in(alert.message.documentation.content):
            yield query, []
    for query in queries_in(dashboard().text):
        yield query, []
    for tile in dashboard().message.mosaic_layout.tiles:
        if "logs_panel" in tile.widget:
            yield tile.widget.logs_panel.filter, []


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        (LogMetric, {"metricDescriptor": {"metricKnd": "DELTA"}}),
        (LogMetric, {"metricDescriptor": {"metricKind": "DELTAS"}}),
        (AlertPolicy, {"conditions": [{"conditionMatchedLogs": {"filter": "x"}}]}),
        (AlertPolicy, {"alertStrategy": {"autoClose": "5m"}}),
        (Dashboard, {"mosaicLayout": {"tiles": [{"wdth": 1}]}}),
    ],
)
def test_a_field_or_a_word_that_google_does_not_know_is_found(kind: Any, document: dict[str, Any]) -> None:
    with pytest.raises(json_format.ParseError):
        message_of(kind, document)


def fields_of(schema: dict[str, Any]) -> set[str]:
    """The properties that an object may have, wherever they are written."""
    named = set(schema.get("properties", ()))
    if "$ref" in schema:
        named |= fields_of(SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]])
    return named.union(*(fields_of(part) for part in schema.get("allOf", ())))


def test_filters_ask_for_fields_that_the_records_they_name_have() -> None:
    for filter_, extractors in log_filters():
        query = log_query.read(filter_)
        events = [text for text in query.texts if text in SCHEMA["$defs"]]
        assert events or query.fields == ("resource.type", "operation.producer"), filter_
        for path in {*query.fields, *map(extracted, extractors)}:
            if path.startswith("jsonPayload."):
                name = path.removeprefix("jsonPayload.")
                assert all(name in fields_of(SCHEMA["$defs"][event]) for event in events), (path, filter_)


def test_filters_are_readable() -> None:
    for filter_, _ in log_filters():
        assert filter_.startswith('resource.type=("gae_app" OR "cloud_run_revision")')
        assert not re.search(r"NOT|[:~<!]|--", filter_), filter_


def test_filters_name_values_that_the_schema_knows() -> None:
    words = {"kind": {"call", "callback"}, "state": {"succeeded", "failed", "cancelled"}}
    words["verdict"] = {"succeeded", "retry", "gave_up", "cancelled"}
    for filter_, _ in log_filters():
        for name, listed in re.findall(r"jsonPayload\.(\w+)=(\([^)]*\)|\"[^\"]*\")", filter_):
            said = set(re.findall(r'"([^"]*)"', listed))
            known = words.get(name) or (SCHEMA["then"]["properties"]["event"]["enum"] if name == "event" else said)
            assert said <= set(known), filter_


@pytest.mark.parametrize("metric", METRICS)
def test_a_metric_is_one_that_cloud_logging_takes(metric: Asset) -> None:
    message = metric.message
    descriptor = message.metric_descriptor
    assert re.fullmatch(r"traced_relay_[a-z_]{1,80}", metric.id)
    assert not message.name
    assert message.description
    assert descriptor.metric_kind == 2, "DELTA"  # a log-based metric is no other
    labels = {label.key for label in descriptor.labels}
    assert labels == message.label_extractors.keys() <= BOUNDED
    assert all(extractor == f"EXTRACT(jsonPayload.{key})" for key, extractor in message.label_extractors.items())
    is_distribution = descriptor.value_type == 5
    assert is_distribution == bool(message.value_extractor) == message.HasField("bucket_options")
    bounds = [*message.bucket_options.explicit_buckets.bounds]
    assert bounds == sorted(set(bounds))
    assert len(bounds) <= 199
    assert is_distribution or descriptor.value_type == 2, "INT64"
    assert descriptor.unit == ("ms" if metric.id.endswith("_ms") else "1")


@pytest.mark.parametrize("metric", [m for m in METRICS if m.values[0].message.value_extractor])
def test_buckets_are_fine_enough_for_charts_and_alerts(metric: Asset) -> None:
    bounds = metric.message.bucket_options.explicit_buckets.bounds
    needless = 1000 if "oldest" in metric.id else 1  # under a second nobody is late
    steps = [high / low for low, high in pairwise(bounds) if low >= needless]
    assert bounds[0] == 1
    assert bounds[-1] >= (86_400_000 if metric.id.endswith("_ms") else 100_000)
    assert max(steps) <= 10
    assert len(bounds) >= 15


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_is_one_that_cloud_monitoring_takes(alert: Asset) -> None:
    message = alert.message
    strategy = message.alert_strategy
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", alert.id)
    assert message.display_name.startswith("traced-relay: ")
    assert (message.combiner, message.enabled.value, message.severity > 0) == (2, True, True)
    assert strategy.auto_close.seconds >= 1800
    assert len({condition.display_name for condition in message.conditions}) == len(message.conditions)
    on_records = log_condition(alert)
    assert strategy.HasField("notification_rate_limit") == (on_records is not None)
    if on_records is not None:
        assert len(message.conditions) == 1
        assert on_records.label_extractors.keys() <= BOUNDED


@pytest.mark.parametrize(
    "condition", [pytest.param(c, id=alert.id) for alert in alerts().values() for c in metric_conditions(alert)]
)
def test_a_condition_on_a_metric_is_one_that_can_be_evaluated(condition: Any) -> None:
    judged = [(condition.filter, a) for a in condition.aggregations]
    judged += [(condition.denominator_filter, a) for a in getattr(condition, "denominator_aggregations", ())]
    for filter_, aggregation in judged:
        ways(aggregation, kind_of(type_in(filter_)))
        fields = log_query.read(filter_, log_query.SERIES).fields
        assert {"metric.type", "resource.type"} <= set(fields)
        assert len(filter_) <= 2048
    (aggregation,) = condition.aggregations
    assert aggregation.alignment_period.seconds >= 60
    assert aggregation.alignment_period.seconds % 60 == condition.duration.seconds % 60 == condition.duration.nanos == 0
    if not hasattr(condition, "comparison"):
        assert 120 <= condition.duration.seconds <= 23.5 * 3600
        return
    assert condition.comparison in (ComparisonType.COMPARISON_GT, ComparisonType.COMPARISON_LT)
    assert condition.evaluation_missing_data == 0 or condition.duration.seconds >= 60
    assert bool(condition.denominator_filter) == bool(condition.denominator_aggregations)
    assert [*condition.denominator_aggregations] in ([], [aggregation])


def test_a_percentile_is_compared_with_a_bound_of_its_buckets() -> None:
    compared = 0
    for condition in (c for alert in alerts().values() for c in metric_conditions(alert)):
        (aggregation,) = condition.aggregations
        if "PERCENTILE" in Aggregation.Reducer(aggregation.cross_series_reducer).name:
            metric = metrics()[log_query.read(condition.filter, log_query.SERIES).texts[0].removeprefix(OF_THE_RELAY)]
            assert condition.threshold_value in metric.message.bucket_options.explicit_buckets.bounds
            compared += 1
    assert compared == 3


def is_taken(type_: str, aligner: Any, reducer: Any) -> bool:
    said = {"alignmentPeriod": "60s", "perSeriesAligner": aligner.name, "crossSeriesReducer": reducer.name}
    try:
        ways(message_of(Aggregation, said), kind_of(type_))
    except log_query.NotUnderstood:
        return False
    return True


@pytest.mark.parametrize(
    ("type_", "aligners", "reducers"),
    [
        ("cloudtasks.googleapis.com/queue/depth", {"MEAN"}, {"SUM"}),
        ("cloudtasks.googleapis.com/queue/task_attempt_count", {"DELTA", "RATE"}, {"SUM"}),
        (f"{OF_THE_RELAY}traced_relay_attempts", {"DELTA", "RATE"}, {"SUM"}),
        (f"{OF_THE_RELAY}traced_relay_overdue", {"DELTA"}, {"MEAN", "PERCENTILE_50", "PERCENTILE_95", "PERCENTILE_99"}),
    ],
)
def test_an_unfit_aligner_or_reducer_is_refused(type_: str, aligners: set[str], reducers: set[str]) -> None:
    taken = {(a.name, r.name) for a in Aggregation.Aligner for r in Aggregation.Reducer if is_taken(type_, a, r)}
    assert taken == {(f"ALIGN_{aligner}", f"REDUCE_{reducer}") for aligner in aligners for reducer in reducers}


def series_used() -> Iterator[tuple[str, list[str]]]:
    """Every filter on time series, with what is grouped by."""
    for alert in alerts().values():
        for filter_ in series_filters(alert):
            yield (
                filter_,
                [name for c in metric_conditions(alert) for a in c.aggregations for name in a.group_by_fields],
            )
    for query in chart_queries():
        yield query.filter, [*query.aggregation.group_by_fields]


def test_alerts_and_charts_use_metrics_and_labels_that_there_are() -> None:
    used = set()
    for filter_, groups in series_used():
        query = log_query.read(filter_, log_query.SERIES)
        type_, name = query.texts[0], query.texts[0].removeprefix(OF_THE_RELAY)
        labels = LABELS_OF_CLOUD_TASKS[type_] if name == type_ else set(metrics()[name].message.label_extractors)
        used.add(name)
        asked = [path.rpartition(".") for path in (*query.fields, *groups) if path.count(".") == 2]
        for start, _, label in asked:
            assert label in (OF_A_QUEUE if start.startswith("resource.") else labels), (label, filter_)
    assert used == metrics().keys() | OF_CLOUD_TASKS.keys()


def reasons_of_the_gate() -> set[str]:
    trees = [modules()[name].tree for name in ("api.auth", "api.id_token")]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {k.value.value for c in calls for k in c.keywords if k.arg == "reason" and isinstance(k.value, ast.Constant)}


def test_the_rejection_alert_matches_the_gates_reasons() -> None:
    said = reasons_of_the_gate()
    query = log_query.read(metrics()["traced_relay_rejected_identities"].message.filter)
    assert {text for text in query.texts if "." not in text} == said | {"gae_app", "cloud_run_revision"}
    assert len(said) == 19


def test_the_schema_lists_every_reason_of_the_gate() -> None:
    listed = SCHEMA["$defs"]["refusal"]["examples"]
    assert set(listed) == reasons_of_the_gate() | {"unreadable", "unknown_task", "invalid", "unavailable"}


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_it_means_how_to_look_and_what_to_do(alert: Asset) -> None:
    page = alert.message.documentation
    assert page.mime_type == "text/markdown"
    assert len(page.content) <= 8192
    parts = re.split(r"^## (.+)\n", page.content, flags=re.MULTILINE)
    assert parts[0] == ""
    assert parts[1::2] == ["What it means", "How to look", "What to do"]
    assert all(len(part) > 100 for part in parts[2::2])
    (shown,) = re.findall(r"```\n(.*?)\n```", parts[4], re.DOTALL)
    assert queries_in(parts[4]) == [shown]
    links = re.findall(r"\]\(([^)\s]+)\)", page.content)
    assert all(link.endswith(f"?project={PLACEHOLDERS['PROJECT_ID']}") for link in links)
    assert any(link.startswith("https://console.cloud.google.com/traces/explorer?") for link in links)
    assert "${" not in page.content
    condition = log_condition(alert)
    assert condition is None or " ".join(shown.split()) == condition.filter


def test_dashboard_tiles_fill_twelve_columns() -> None:
    layout = dashboard().message.mosaic_layout
    assert layout.columns == 12
    squares = [
        {(x, y) for x in range(t.x_pos, t.x_pos + t.width) for y in range(t.y_pos, t.y_pos + t.height)}
        for t in layout.tiles
    ]
    assert not any(a & b for a, b in combinations(squares, 2))
    covered = set().union(*squares)
    assert covered == {(x, y) for x in range(12) for y in range(1 + max(y for _, y in covered))}
    assert len({tile.widget.title for tile in layout.tiles}) == len(layout.tiles)


def charts() -> Iterator[tuple[Any, Any, Any]]:
    """Every line of every chart: its tile, itself, and how it is aggregated."""
    for tile in dashboard().message.mosaic_layout.tiles:
        for data in tile.widget.xy_chart.data_sets:
            yield tile.widget, data, data.time_series_query.time_series_filter.aggregation


def test_a_chart_uses_a_reducer_that_fits_its_metric() -> None:
    shown = set()
    for widget, data, aggregation in charts():
        kind = kind_of(type_in(data.time_series_query.time_series_filter.filter))
        ways(aggregation, kind)
        aligner = Aggregation.Aligner(aggregation.per_series_aligner).name
        reducer = Aggregation.Reducer(aggregation.cross_series_reducer).name
        percentile = re.match(r"p(\d\d)\b", data.legend_template)
        assert reducer.removeprefix("REDUCE_PERCENTILE_") == (percentile[1] if percentile else reducer)
        is_counted = (kind.metric_kind, kind.value_type) == ("DELTA", "INT64")
        is_rate = widget.title.endswith(", per second") and widget.xy_chart.y_axis.label == "per second"
        # A count is of an interval, and that is longer when the dashboard shows more than an hour.
        assert is_counted == (is_rate or data.legend_template.endswith(", an interval")), widget.title
        assert (aligner == "ALIGN_RATE") == is_rate
        assert "minute" not in widget.title
        shown.add(reducer)
    assert shown == {"REDUCE_SUM", "REDUCE_MEAN", *(f"REDUCE_PERCENTILE_{part}" for part in (50, 95, 99))}


def test_millisecond_charts_have_a_unit_and_a_range() -> None:
    for widget, data, aggregation in charts():
        chart = widget.xy_chart
        axis = chart.y2_axis if data.target_axis == XyChart.DataSet.TargetAxis.Y2 else chart.y_axis
        filter_ = data.time_series_query.time_series_filter.filter
        assert (axis.label == "ms") == type_in(filter_).endswith("_ms"), widget.title
        is_percentile = "PERCENTILE" in Aggregation.Reducer(aggregation.cross_series_reducer).name
        assert (axis.scale == XyChart.Axis.Scale.LOG10) == is_percentile, widget.title  # a level may be nothing


def test_the_line_across_a_chart_is_where_its_alert_is() -> None:
    across = {tile.widget.title: [t.value for t in tile.widget.xy_chart.thresholds]
              for tile in dashboard().message.mosaic_layout.tiles if tile.widget.xy_chart.thresholds}  # fmt: skip
    (slow,), (deep,) = (metric_conditions(alerts()[name]) for name in ("attempt-latency", "queue-depth"))
    assert across == {
        "Attempt latency by rule": [slow.threshold_value],
        "Cloud Tasks: tasks in the queue": [deep.threshold_value],
    }


def test_other_queues_are_in_no_chart_and_no_alert() -> None:
    filters = [filter_ for filter_, _ in series_used() if type_in(filter_) in OF_CLOUD_TASKS]
    assert len(filters) == 5
    for filter_ in filters:
        resource = {"type": "cloud_tasks_queue", "labels": {"queue_id": "relay-callbacks"}}
        series = {
            "metric": {"type": type_in(filter_), "labels": {"response_code": "unavailable"}},
            "resource": resource,
        }
        query = log_query.read(filter_, log_query.SERIES)
        assert query.matches(series)
        resource["labels"] = {"queue_id": "relay-of-others"}
        assert not query.matches(series)


def test_incidents_are_listed_of_what_the_policies_watch() -> None:
    (tile,) = [tile for tile in dashboard().message.mosaic_layout.tiles if "incident_list" in tile.widget]
    listed = {resource.type for resource in tile.widget.incident_list.monitored_resources}
    filters = [filter_ for alert in alerts().values() for filter_ in series_filters(alert)]
    assert listed == {found for text in filters for found in re.findall(r'resource\.type="(\w+)"', text)}


def test_a_legend_names_labels_that_a_chart_is_grouped_by() -> None:
    for tile in dashboard().message.mosaic_layout.tiles:
        for data in tile.widget.xy_chart.data_sets:
            groups = data.time_series_query.time_series_filter.aggregation.group_by_fields
            named = re.findall(r"\$\{metric\.labels\.(\w+)\}", data.legend_template)
            assert {f"metric.label.{name}" for name in named} <= set(groups)


def test_the_readme_lists_exactly_these_alerts_and_metrics() -> None:
    page = (FOLDER / "README.md").read_text()
    assert page.count("\n") <= 64
    told = re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE)
    assert sorted(told) == sorted([*alerts(), *metrics()])
    assert all(f"`{name}`" in page for name in PLACEHOLDERS)
    severities = re.findall(r"^\| `([\w-]+)` \| (critical|error|warning) \|", page, re.MULTILINE)
    assert {(name, severity.upper()) for name, severity in severities} == {
        (alert.id, AlertPolicy.Severity(alert.message.severity).name) for alert in alerts().values()
    }
