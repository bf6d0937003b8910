from __future__ import annotations

import json
from typing import Any

import pytest

from support.discovery import answer_problems, request_problems
from support.monitoring_files import FOLDER
from traced_relay.formats.yaml_file import document_of

ALERT = document_of(FOLDER / "alerts" / "failure-ratio.yaml")
METRIC = document_of(FOLDER / "metrics" / "traced_relay_attempts.yaml")
DASHBOARD = document_of(FOLDER / "dashboard.json")
QUEUE = {
    "name": "projects/p/locations/l/queues/q",
    "rateLimits": {"maxDispatchesPerSecond": 100.0, "maxConcurrentDispatches": 80},
    "retryConfig": {"maxAttempts": -1, "maxRetryDuration": "0s", "minBackoff": "5s", "maxBackoff": "60s"},
}
ALERTS = ("POST", "monitoring", "v3/projects/p/alertPolicies")
METRICS = ("POST", "logging", "v2/projects/p/metrics")
DASHBOARDS = ("POST", "monitoring", "v1/projects/p/dashboards")
QUEUES = ("POST", "cloudtasks", "v2/projects/p/locations/l/queues")


def changed(document: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    text = json.dumps(document)
    assert old in text
    made: dict[str, Any] = json.loads(text.replace(old, new, 1))
    return made


@pytest.mark.parametrize(
    ("asked", "body"),
    [(ALERTS, ALERT), (METRICS, METRIC), (DASHBOARDS, DASHBOARD), (QUEUES, QUEUE)],
    ids=["alert", "metric", "dashboard", "queue"],
)
def test_what_is_as_google_describes_it_passes(asked: tuple[str, str, str], body: dict[str, Any]) -> None:
    assert request_problems(*asked, {"alt": ["json"]}, body) == []


@pytest.mark.parametrize(
    ("asked", "body", "said"),
    [
        (ALERTS, changed(ALERT, '"combiner"', '"combinner"'), "combinner is no field of AlertPolicy"),
        (ALERTS, changed(ALERT, '"OR"', '"GREATER"'), "'GREATER' is none of its words"),
        (ALERTS, changed(ALERT, '"1800s"', '"5 min"'), "'5 min' is no google-duration"),
        (ALERTS, changed(ALERT, "ALIGN_DELTA", "ALIGN_RAT"), "'ALIGN_RAT' is none of its words"),
        (METRICS, changed(METRIC, '"DELTA"', '"DELTAA"'), "'DELTAA' is none of its words"),
        (METRICS, changed(METRIC, "labelExtractors", "labelExtractor"), "labelExtractor is no field of LogMetric"),
        (METRICS, changed(METRIC, '"filter"', '"filters"'), "filters is no field of LogMetric"),
        (DASHBOARDS, changed(DASHBOARD, '"xPos"', '"x"'), "x is no field of Tile"),
        (DASHBOARDS, changed(DASHBOARD, '"columns": 12', '"columns": "twelve"'), "'twelve' is no"),
        (QUEUES, changed(QUEUE, '"5s"', '"5"'), "'5' is no google-duration"),
        (QUEUES, changed(QUEUE, "-1", "true"), "True is no integer"),
    ],
    ids=lambda given: given.replace(" ", "-")[:24] if isinstance(given, str) else "",
)
def test_a_mistake_that_gcloud_lets_pass_is_found(asked: tuple[str, str, str], body: dict[str, Any], said: str) -> None:
    found = request_problems(*asked, {}, body)
    assert len(found) == 1
    assert said in found[0]


@pytest.mark.parametrize(
    ("verb", "path", "query", "said"),
    [
        ("GET", "v2/projects/p/locations/l/queues", {"pageSise": ["5"]}, "query: pageSise is not known"),
        ("GET", "v2/projects/p/locations/l/queues", {"pageSize": ["five"]}, "query: pageSize: 'five' is no integer"),
        ("PUT", "v2/projects/p/locations/l/queues/q", {}, "cloudtasks has no PUT"),
        ("GET", "v2/projects/p/places/l/queues/q", {}, "cloudtasks has no GET"),
        ("GET", "v4/projects/p/locations/l/queues/q", {}, "cloudtasks.v4.json"),
        ("PATCH", "v2/projects/p/locations/l/queues/q", {"updateMask": ["retryConf.x"]}, "retryConf.x is no field"),
    ],
)
def test_a_method_or_a_query_that_there_is_not_is_found(
    verb: str, path: str, query: dict[str, list[str]], said: str
) -> None:
    found = request_problems(verb, "cloudtasks", path, query, None if verb == "GET" else {})
    assert said in found[0]


def test_an_answer_is_held_against_the_same_description() -> None:
    asked = ("GET", "cloudtasks", "v2/projects/p/locations/l/queues/q")
    assert answer_problems(*asked, QUEUE | {"state": "RUNNING", "purgeTime": "2026-11-21T18:00:00.5Z"}) == []
    assert answer_problems(*asked, {"state": "AWAKE"}) == ["answer.state: 'AWAKE' is none of its words"]
    assert answer_problems(*asked, {"purgeTime": "today"}) == ["answer.purgeTime: 'today' is no google-datetime"]
