from __future__ import annotations

from typing import Any

import pytest

from support.documents import QUEUE_STATUS
from support.relay_stand_in import document
from traced_relay.client.response_shapes import fits
from traced_relay.tasks.api_types import Attempt, QueueStatus, Response, Status

RESPONSE = {"status_code": 200, "headers": {"a": "b"}, "body": "ok", "truncated": False}
WHOLE = document(response=RESPONSE)
DOCUMENTS = [
    pytest.param(WHOLE, Status, id="status"),
    pytest.param(WHOLE["attempts"][0], Attempt, id="attempt"),
    pytest.param(RESPONSE, Response, id="response"),
    pytest.param(QUEUE_STATUS, QueueStatus, id="queue"),
]


@pytest.mark.parametrize(("given", "hint"), DOCUMENTS)
def test_a_document_fits_with_fields_of_later_versions(given: dict[str, Any], hint: type) -> None:
    assert fits(given, hint)
    assert fits(given | {"later": 1}, hint)


@pytest.mark.parametrize(("given", "hint"), DOCUMENTS)
def test_a_document_without_a_required_field_is_refused(given: dict[str, Any], hint: Any) -> None:
    for name in hint.__required_keys__:
        assert not fits({field: value for field, value in given.items() if field != name}, hint), name


@pytest.mark.parametrize(("given", "hint"), DOCUMENTS)
def test_a_field_of_another_type_is_refused(given: dict[str, Any], hint: type) -> None:
    for name in given:
        assert not fits(given | {name: object()}, hint), name


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "\ud800"},
        {"created_at": "yesterday"},
        {"finished_at": "2026-02-31T00:00:00Z"},
        {"attempt": -1},
        {"attempt": 2**53 + 1},
        {"attempt": 1.0},
        {"attempt": True},
        {"round": 0},
        {"links": WHOLE["links"] | {"trace": "http://["}},
        {"labels": {"a": 1}},
        {"response": {"status_code": 200, "headers": {}, "truncated": False}},
    ],
    ids=str,
)
def test_a_value_that_breaks_its_rule_is_refused(changes: dict[str, Any]) -> None:
    assert not fits(WHOLE | changes, Status)


def test_a_state_of_a_later_version_fits() -> None:
    assert fits(WHOLE | {"state": "paused"}, Status)
