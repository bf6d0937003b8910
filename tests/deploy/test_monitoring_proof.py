from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from support import log_query
from support.log_entry import lift
from support.metric_points import is_absent, is_exceeded, label_of, points_of
from support.monitored_runs import RUNS, Run, played
from support.monitoring_files import (
    OF_THE_RELAY,
    alerts,
    dashboard,
    extracted,
    log_condition,
    metric_conditions,
    metrics,
    queries_in,
)
from support.schema import validate
from support.time_series import type_in

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from support.monitoring_files import Asset
    from support.time_series import Point

pytestmark = pytest.mark.whole

# Which runs an alert fires in; in all others it keeps silent.
FIRES = {
    "attempt-latency": {"slow for half an hour"},
    "callback-given-up": {"receiver is gone", "callback at the end of its schedule", "callback purged"},
    "callbacks-pending": {"receiver away for an hour"},
    "dispatch-unworkable": {"tasks that cannot be worked"},
    "failure-ratio": {"fails for half an hour"},
    "rejected-identities": {"forged dispatches", "bad identities", "a queue that is not ours"},
    "sweep-silent": {"ledger is gone"},
    "task-failed": {"gave up", "worker lost of a call that may not", "denied downstream"},
    "tasks-overdue": {"queue paused and forgotten"},
    "telemetry-dropped": {"spans dropped"},
    "workers-lost": {"worker lost of a call that may be repeated", "worker lost of a call that may not"},
}
OF_CLOUD_TASKS = {"queue-depth", "dispatches-failing"}
IDENTITY = {
    *("not_from_the_queue", "no_task_name", "unknown_queue", "unknown_caller", "not_the_cron"),
    *("foreign_host", "foreign_site", "no_token", "no_audience", "malformed_token", "unsupported_token"),
    *("unknown_key", "bad_signature", "unknown_issuer", "wrong_audience", "expired", "not_yet_valid"),
    *("no_email", "email_not_verified"),
}
Record = dict[str, Any]


def said(event: str, **fields: object) -> Callable[[Record], bool]:
    return lambda r: r.get("event") == event and all(r.get(name) == value for name, value in fields.items())


# What a filter has to match, told once more and in another language.
RECORDS: dict[str, Callable[[Record], bool]] = {
    "callback-given-up": lambda r: said("task.finished", kind="callback")(r) and r["state"] != "succeeded",
    "dispatch-unworkable": lambda r: said("dispatch.rejected")(r) and r["severity"] == "ERROR",
    "task-failed": said("task.finished", kind="call", state="failed", severity="ERROR"),
    "telemetry-dropped": said("telemetry.dropped"),
    "workers-lost": said("attempt.finished", reason="worker_lost", blame="platform"),
    "attempt_latency_ms": said("attempt.finished"),
    "attempts": said("attempt.finished"),
    "dispatches_deferred": said("dispatch.deferred"),
    "dropped_spans": said("telemetry.dropped"),
    "queue_delay_ms": lambda r: said("attempt.started")(r) and r["queue_delay_ms"] is not None,
    "rejected_identities": lambda r: str(r.get("event")).endswith(".rejected") and r["reason"] in IDENTITY,
    "retries": lambda r: said("attempt.finished")(r) and r["retry_delay_ms"] is not None,
    "tasks_enqueued": said("task.enqueued"),
    "tasks_finished": said("task.finished"),
} | {
    name: said("relay.swept")
    for name in (
        *("callbacks_pending", "oldest_callback_ms", "oldest_overdue_ms", "overdue", "recovered"),
        *("running", "sweeps", "workers_lost"),
    )
}
NOT_SAID = {
    "reason": lambda r: r.get("verdict") == "succeeded" or r.get("state") == "succeeded",
    "blame": lambda r: r.get("verdict") == "succeeded" or r.get("state") == "succeeded",
    "rule": lambda r: r.get("kind") == "callback" or r.get("reason") == "denied",
}


def tell(*lines: str) -> None:
    """For whoever runs this with `-s`."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))


@dataclass(frozen=True)
class Printed:
    """A run, and its lines as records and as entries."""

    run: Run
    records: list[Record]
    entries: list[dict[str, Any]]


@pytest.fixture(scope="module")
def all_runs() -> dict[str, Printed]:
    printed = {}
    for name in RUNS:
        run = played(name)
        records = [json.loads(line) for line in run.lines]
        printed[name] = Printed(run, records, [lift(line) for line in run.lines])
    return printed


def matched(filter_: str, printed: Printed) -> list[int]:
    query = log_query.read(filter_)
    return [number for number, entry in enumerate(printed.entries) if query.matches(entry)]


def meant(name: str, printed: Printed) -> list[int]:
    return [number for number, record in enumerate(printed.records) if RECORDS[name](record)]


def metric_named(type_: str) -> Asset:
    return metrics()[type_.removeprefix(OF_THE_RELAY)]


def watched(condition: Any, printed: Printed) -> list[Point]:
    """The points of the metric that a condition looks at."""
    return points_of(metric_named(type_in(condition.filter)), printed.entries)


def fires(alert: Asset, printed: Printed) -> bool:
    on_records = log_condition(alert)
    if on_records is not None:
        return bool(matched(on_records.filter, printed))
    return any(holds(condition, printed) for condition in metric_conditions(alert))


def holds(condition: Any, printed: Printed) -> bool:
    judge = is_exceeded if hasattr(condition, "comparison") else is_absent
    return judge(condition, watched(condition, printed), began=printed.run.began, ended=printed.run.ended)


def test_every_line_of_every_run_is_a_record_of_the_contract(all_runs: Mapping[str, Printed]) -> None:
    for printed in all_runs.values():
        assert printed.records
        for record in printed.records:
            validate(record)


def test_every_alert_fires_in_its_runs_and_in_no_other(all_runs: Mapping[str, Printed]) -> None:
    assert FIRES.keys() | OF_CLOUD_TASKS == alerts().keys()
    tell("", f"{'alert':22}{'on':9}{'fires in':50}{'records':>8}{'of other runs':>15}")
    for name, runs in FIRES.items():
        alert = alerts()[name]
        fired = {run for run, printed in all_runs.items() if fires(alert, printed)}
        on, elsewhere = "records" if log_condition(alert) else "metric", in_vain(alert, runs, all_runs)
        tell(
            *(f"{name:22}{on:9}{run:50}{len(found_by(alert, all_runs[run])):8}{elsewhere:15}" for run in sorted(fired))
        )
        assert (fired, elsewhere) == (runs, 0), name


def test_each_condition_of_an_alert_is_met_somewhere(all_runs: Mapping[str, Printed]) -> None:
    for name in FIRES:
        for condition in metric_conditions(alerts()[name]):
            assert any(holds(condition, printed) for printed in all_runs.values()), (name, condition.filter)


def found_by(alert: Asset, printed: Printed) -> list[int]:
    """The records that the condition matches; of one on a metric, those that its page says to look at."""
    on_records = log_condition(alert)
    (query,) = queries_in(alert.message.documentation.content)
    return matched(on_records.filter if on_records is not None else query, printed)


def in_vain(alert: Asset, runs: set[str], all_runs: Mapping[str, Printed]) -> int:
    """Records of other runs that made it fire: what a condition on records matches, or, where a metric's holds, all."""
    others = [printed for run, printed in all_runs.items() if run not in runs]
    return sum(len(found_by(alert, printed)) for printed in others if fires(alert, printed))


@pytest.mark.parametrize("name", [name for name, alert in alerts().items() if log_condition(alert) is not None])
def test_an_alert_on_records_matches_exactly_its_records(all_runs: Mapping[str, Printed], name: str) -> None:
    for run, printed in all_runs.items():
        assert matched(log_condition(alerts()[name]).filter, printed) == meant(name, printed), run


def test_every_metric_counts_exactly_its_records(all_runs: Mapping[str, Printed]) -> None:
    total = sum(len(printed.records) for printed in all_runs.values())
    tell("", f"{'metric':38}{'runs':>5}{'records':>9}  of {total}")
    for metric in metrics().values():
        counts = []
        for run, printed in all_runs.items():
            numbers = matched(metric.message.filter, printed)
            assert numbers == meant(metric.id.removeprefix("traced_relay_"), printed), (metric.id, run)
            counts.append(len(numbers))
            if taken := metric.message.value_extractor:
                field = extracted(taken).removeprefix("jsonPayload.")
                values = [point.value for point in points_of(metric, printed.entries)]
                assert values == [printed.records[number][field] for number in numbers]
        tell(f"{metric.id:38}{sum(count > 0 for count in counts):5}{sum(counts):9}")
        assert sum(counts) > 0, metric.id


def test_every_extractor_yields_a_value_of_every_record_that_has_one(all_runs: Mapping[str, Printed]) -> None:
    extracting = [(m.message.filter, m.message.label_extractors) for m in metrics().values()]
    extracting += [(c.filter, c.label_extractors) for a in alerts().values() if (c := log_condition(a)) is not None]
    for filter_, extractors in extracting:
        for printed in all_runs.values():
            for number in matched(filter_, printed):
                for label, extractor in extractors.items():
                    is_silent = label in NOT_SAID and NOT_SAID[label](printed.records[number])
                    value = label_of(extractor, printed.entries[number])
                    assert (value == "") == is_silent, (label, printed.records[number])
                    assert re.fullmatch(r"[a-z0-9_.-]{0,40}", value)
                    assert value != printed.records[number].get("task_id")


def test_an_alerts_log_query_finds_records_when_it_fires(all_runs: Mapping[str, Printed]) -> None:
    for name, runs in FIRES.items():
        (query,) = queries_in(alerts()[name].message.documentation.content)
        assert all(matched(query, all_runs[run]) for run in runs), name


def test_the_dashboard_shows_failures_of_calls_and_callbacks(all_runs: Mapping[str, Printed]) -> None:
    panels = [tile.widget.logs_panel for tile in dashboard().message.mosaic_layout.tiles if "logs_panel" in tile.widget]
    (shown,) = panels
    failed = [
        [n for n, r in enumerate(p.records) if said("task.finished", state="failed")(r)] for p in all_runs.values()
    ]
    assert [matched(shown.filter, printed) for printed in all_runs.values()] == failed
    assert sum(len(numbers) for numbers in failed) >= 5


def record_filters() -> list[str]:
    on_records = [condition.filter for alert in alerts().values() if (condition := log_condition(alert)) is not None]
    return on_records + [metric.message.filter for metric in metrics().values()]


def foreign(line: str) -> list[dict[str, Any]]:
    """The same line, were it another service's: of another kind, or with words like ours in it."""
    document = json.loads(line)
    document.pop("logging.googleapis.com/operation", None)
    same = [lift(json.dumps(document))] if "task_id" in document else []
    return [lift(line, "k8s_container"), *same]


def test_cloud_run_records_count_and_other_services_do_not(
    all_runs: Mapping[str, Printed],
) -> None:
    lines = [line for printed in all_runs.values() for line in printed.run.lines]
    strange = [entry for line in lines for entry in foreign(line)]
    for filter_ in record_filters():
        query = log_query.read(filter_)
        on_app_engine, on_cloud_run = (
            [*map(query.matches, map(lift, lines))],
            [query.matches(lift(line, "cloud_run_revision")) for line in lines],
        )
        assert on_app_engine == on_cloud_run
        assert "operation.producer" not in query.fields or not any(map(query.matches, strange))


def weaker(filter_: str) -> list[str]:
    """The filter without one of its clauses; what asks for more than an event's name may name it for the reader."""
    clauses = filter_.split(" AND ")
    is_detailed = filter_.count("jsonPayload.") > 1
    needed = [n for n, clause in enumerate(clauses) if not (is_detailed and clause.startswith("jsonPayload.event="))]
    return [" AND ".join(clauses[:n] + clauses[n + 1 :]) for n in needed]


def narrower(filter_: str, words: set[str]) -> list[str]:
    """The filter without one of the *words* in its lists."""
    found = []
    for whole in re.findall(r"\([^)]*\)", filter_):
        values = whole.strip("()").split(" OR ")
        for value in values:
            if value.strip('"') in words:
                left = " OR ".join(kept for kept in values if kept != value)
                found.append(filter_.replace(whole, f"({left})"))
    return found


def test_no_clause_of_a_filter_is_redundant(all_runs: Mapping[str, Printed]) -> None:
    lines = [line for printed in all_runs.values() for line in printed.run.lines]
    every = [entry for line in lines for entry in (lift(line), lift(line, "cloud_run_revision"), *foreign(line))]
    asked = sorted({field for filter_ in record_filters() for field in log_query.read(filter_).fields})
    entries = [*{tuple(str(log_query.field_of(entry, field)) for field in asked): entry for entry in every}.values()]
    words = {str(value) for p in all_runs.values() for record in p.records for value in record.values()}
    checked = 0
    for filter_ in record_filters():
        before = [*map(log_query.read(filter_).matches, entries)]
        for changed in (*weaker(filter_), *narrower(filter_, words | {"gae_app", "cloud_run_revision"})):
            assert [*map(log_query.read(changed).matches, entries)] != before, (filter_, changed)
            checked += 1
    tell("", f"{checked} changed filters, each of which matches other records")


def without(clause: str, condition: Any) -> Any:
    """The condition with a weaker filter, above and below a fraction bar."""
    changed = type(condition)()
    changed.CopyFrom(condition)
    changed.filter = changed.filter.replace(f" AND {clause}", "")
    changed.denominator_filter = changed.denominator_filter.replace(f" AND {clause}", "")
    return changed


def test_an_alert_without_its_label_filter_fires_wrongly(
    all_runs: Mapping[str, Printed],
) -> None:
    checked = 0
    for name in FIRES.keys() - {"attempt-latency"}:  # a callback has half a minute: it is never that slow
        for condition in metric_conditions(alerts()[name]):
            for clause in condition.filter.split(" AND ")[2:]:
                changed = without(clause, condition)
                held = [[holds(c, printed) for printed in all_runs.values()] for c in (condition, changed)]
                assert held[0] != held[1], (name, clause)
                checked += 1
    assert checked == 6
