"""What lies in monitoring/, as Google's own messages read it: a field that they do not have, or a bad word, fails."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import yaml
from google.cloud.logging_v2.types import LogMetric
from google.cloud.monitoring_dashboard_v1.types import Dashboard
from google.cloud.monitoring_v3.types import AlertPolicy
from google.protobuf import json_format

from support.house import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from google.protobuf.message import Message

FOLDER = ROOT / "monitoring"
OF_THE_RELAY = "logging.googleapis.com/user/"
PLACEHOLDERS = {"PROJECT_ID": "test-project", "RESOURCE_TYPE": "gae_app", "QUEUE_NAMES": "relay|relay-callbacks"}


@dataclass(frozen=True)
class Asset:
    """One file: its *id*, its *text*, and the *message* that its API takes, made of it."""

    id: str
    text: str
    message: Any


def filled(text: str) -> str:
    """With the placeholders replaced, as whoever sets up a project does it."""
    for name, value in PLACEHOLDERS.items():
        text = text.replace(name, value)
    return text


def _asset(path: Path, kind: Any) -> Asset:
    text = path.read_text()
    return Asset(path.stem, text, message_of(kind, yaml.safe_load(filled(text))))


def message_of(kind: Any, document: Any) -> Message:
    return json_format.Parse(json.dumps(document), kind.pb(kind()))


@cache
def metrics() -> dict[str, Asset]:
    return {path.stem: _asset(path, LogMetric) for path in sorted((FOLDER / "metrics").glob("*"))}


@cache
def alerts() -> dict[str, Asset]:
    return {path.stem: _asset(path, AlertPolicy) for path in sorted((FOLDER / "alerts").glob("*"))}


@cache
def dashboard() -> Asset:
    return _asset(FOLDER / "dashboard.json", Dashboard)


def log_condition(alert: Asset) -> Any:
    """The condition on records, of an alert that has one."""
    condition = alert.message.conditions[0]
    return condition.condition_matched_log if condition.WhichOneof("condition") == "condition_matched_log" else None


def metric_conditions(alert: Asset) -> list[Any]:
    """Its thresholds and absences."""
    found = [getattr(condition, condition.WhichOneof("condition")) for condition in alert.message.conditions]
    return [] if log_condition(alert) else found


def series_filters(alert: Asset) -> list[str]:
    conditions = metric_conditions(alert)
    filters = [condition.filter for condition in conditions]
    return filters + [f for c in conditions if (f := getattr(c, "denominator_filter", ""))]


def chart_queries() -> list[Any]:
    tiles = dashboard().message.mosaic_layout.tiles
    return [data.time_series_query.time_series_filter for tile in tiles for data in tile.widget.xy_chart.data_sets]


def queries_in(text: str) -> list[str]:
    """The queries of all links into Logs Explorer."""
    return [unquote(query) for query in re.findall(r"/logs/query;query=([^?)\s]+)\?project=", text)]


def extracted(extractor: str) -> str:
    """The field that an extractor takes; those with a regular expression are not among ours."""
    found = re.fullmatch(r"EXTRACT\((jsonPayload\.[a-z_]+)\)", extractor)
    assert found, f"{extractor} is no EXTRACT of a field of a record"
    return found[1]
