"""The document about the API, held against OpenAPI's own rules and against what the API really answers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from support.asking import get, post
from traced_relay.api import openapi

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traced_relay.testing import Downstream, RunningRelay

RETRY_OF_NULLS = {"max_attempts": None, "jitter": None, "min_backoff": None, "retryable_status_codes": None}
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}


@pytest.fixture(scope="module")
def described(relay: RunningRelay) -> dict[str, Any]:
    answer = get(f"{relay.url}/openapi.json")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    return dict(answer.document)


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method in METHODS & item.keys():
            yield path, method, item[method]


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for inner in part.values():
            yield from references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from references(inner)


def fits(document: dict[str, Any], name: str, value: Any) -> None:
    """Fails where *value* is not what the document calls *name*, or has a field that it does not tell of."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    error = best_match(Draft202012Validator(schema).iter_errors(value))
    assert error is None, f"{name}: {error.json_path}: {error.message}"
    assert set(value) <= set(document["components"]["schemas"][name]["properties"])


def test_every_schema_is_a_json_schema_of_2020_12(described: dict[str, Any]) -> None:
    for schema in described["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_references_and_components_match(described: dict[str, Any]) -> None:
    prefix = "#/components/schemas/"
    assert {f"{prefix}{name}" for name in described["components"]["schemas"]} == set(references(described))


def test_the_document_follows_openapi_3_1(described: dict[str, Any]) -> None:
    assert described["openapi"] == "3.1.0"
    assert {"title", "version"} <= described["info"].keys()
    assert set(described["components"]["securitySchemes"]) == set(*described["security"])
    names = [operation["operationId"] for _, _, operation in operations(described)]
    assert len(set(names)) == len(names)
    for path, _, operation in operations(described):
        assert all(answer["description"] for answer in operation["responses"].values())
        in_path = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path))


def test_described_paths_are_the_served_paths(relay: RunningRelay) -> None:
    served = {
        (str(rule.rule).replace("<", "{").replace(">", "}"), method.lower())
        for rule in relay.application.app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if not str(rule.rule).startswith(("/_ah/", "/dispatch", "/sweep", "/static/"))
    }
    assert served == {(path, method) for path, method, _ in operations(openapi.document())}


def properties(part: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(part, dict):
        yield from part.get("properties", {}).items()
        for inner in part.values():
            yield from properties(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from properties(inner)


def test_every_property_and_parameter_has_a_description(described: dict[str, Any]) -> None:
    schemas = described["components"]["schemas"]
    assert [name for name, schema in schemas.items() if not schema["description"]] == []
    assert [name for name, schema in properties(schemas) if not schema.get("description")] == []
    parameters = [p for _, _, operation in operations(described) for p in operation.get("parameters", [])]
    assert [parameter["name"] for parameter in parameters if not parameter["description"]] == []


def test_every_property_without_values_has_an_example(described: dict[str, Any]) -> None:
    told = {"examples", "enum", "default", "$ref", "items"}  # each shows what a value looks like
    bare = {name for name, schema in properties(described["components"]["schemas"]) if not told & schema.keys()}
    assert bare == {"next_attempt_at", "heartbeat_at", "cancel_requested_at", "truncated", "response"}


def test_every_example_keeps_its_schema(described: dict[str, Any]) -> None:
    for name, schema in properties(described["components"]["schemas"]):
        for example in schema.get("examples", []):
            part = schema | {"components": described["components"]}
            error = best_match(Draft202012Validator(part).iter_errors(example))
            assert error is None, f"{name}: {error.message}"


def test_receipt_status_and_list_match_their_schemas(
    described: dict[str, Any], relay: RunningRelay, downstream: Downstream
) -> None:
    wish = {"url": f"{downstream.url}/report", "body": {"report": 7}, "labels": {"team": "billing"}, "delay": "0s"}
    fits(described, "EnqueueRequest", wish)
    receipt = post(f"{relay.url}/v1/tasks", wish).document
    fits(described, "Receipt", receipt)
    relay.wait_for("task.finished", receipt["task_id"])
    status = get(receipt["links"]["status"]).document
    fits(described, "Status", status)
    fits(described, "Attempt", status["attempts"][0])
    fits(described, "Response", status["response"])
    listed = get(f"{relay.url}/v1/tasks?label.team=billing").document
    fits(described, "TaskList", listed)
    fits(described, "Summary", listed["tasks"][0])


def test_nulls_and_a_direct_receipt_match_their_schemas(described: dict[str, Any], relay: RunningRelay) -> None:
    names = described["components"]["schemas"]["EnqueueRequest"]["properties"].keys() - {"url", "route"}
    wish = dict.fromkeys(names) | {"url": "http://127.0.0.1:9/", "route": "direct", "delay": "1h"}
    parts = {"retry": RETRY_OF_NULLS, "callback": {"url": "http://127.0.0.1:9/", "on": None}}
    for wanted in (wish, wish | parts | {"headers": {"x-a": None}, "labels": {"a": None}}):
        fits(described, "EnqueueRequest", wanted)
    fits(described, "Receipt", post(f"{relay.url}/v1/tasks", wish).document)


def test_a_batch_matches_its_schema(described: dict[str, Any], relay: RunningRelay, downstream: Downstream) -> None:
    wish = {"tasks": [{"url": downstream.url}, {"url": "ftp://example.com"}]}
    answer = post(f"{relay.url}/v1/tasks:batch", wish).document
    fits(described, "BatchResponse", answer)
    fits(described, "Receipt", answer["tasks"][0])
    fits(described, "Problem", answer["tasks"][1])


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_health_and_ready_match_their_schema(described: dict[str, Any], relay: RunningRelay, path: str) -> None:
    fits(described, "Health", get(f"{relay.url}{path}").document)


def test_every_described_filter_is_accepted(described: dict[str, Any], relay: RunningRelay) -> None:
    examples = {"kind": "call", "state": "queued", "since": "1h", "limit": "3"}
    parameters = described["paths"]["/v1/tasks"]["get"]["parameters"]
    names = {p["name"] for p in parameters} - {"page_token"}
    query = "&".join(f"{name}={examples.get(name, 'x')}" for name in names)
    assert get(f"{relay.url}/v1/tasks?{query}").document == {"tasks": [], "next_page_token": None}


def test_defaults_of_durations_are_strings(described: dict[str, Any]) -> None:
    policy = described["components"]["schemas"]["RetryPolicy"]["properties"]
    assert {name: policy[name]["default"] for name in ("min_backoff", "max_backoff", "max_retry_duration")} == {
        "min_backoff": "1s",
        "max_backoff": "5m",
        "max_retry_duration": "0s",
    }
