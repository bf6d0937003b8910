from __future__ import annotations

import pytest

from support.example_rows import ATTEMPT, NOW, row
from traced_relay.api.schemas import schemas
from traced_relay.cloud_tasks.client import QueueStats
from traced_relay.ledger.protocol import Selection
from traced_relay.tasks import status_document
from traced_relay.tasks.api_types import CallFields, Filters
from traced_relay.tasks.enqueue_request import EnqueueRequest
from traced_relay.tasks.row import Response
from traced_relay.tasks.status_document import Context, Links

LINKS = Links("https://relay.example.com", "p")
STATUS = status_document.status(
    row(attempts=(ATTEMPT,), response=Response(status_code=200, headers={})),
    Context(links=LINKS, now=NOW, retention=60.0),
)
RECEIPT = status_document.receipt(row(), "a", LINKS)


@pytest.mark.parametrize(
    ("name", "built"),
    [
        ("Status", STATUS),
        ("Attempt", STATUS["attempts"][0]),
        ("RetryPolicy", STATUS["retry"]),
        ("CallbackState", STATUS["callback"]),
        ("Links", STATUS["links"]),
        ("Receipt", RECEIPT),
        ("ReceiptLinks", RECEIPT["links"]),
    ],
)
def test_a_builder_writes_the_fields_of_its_schema(name: str, built: dict[str, object]) -> None:
    assert list(built) == list(schemas()[name]["properties"])


def test_optional_fields_are_those_of_response_and_queue() -> None:
    optional = {
        f"{name}.{field}"
        for name, schema in schemas().items()
        if "additionalProperties" not in schema and name != "RetryPolicy"
        for field in schema["properties"].keys() - set(schema["required"])
    }
    assert optional == {"Response.body", "Response.body_base64", "QueueStatus.detail", "Problem.errors"}
    assert set(STATUS["response"] or ()) == schemas()["Response"]["properties"].keys() - {"body_base64"}
    assert QueueStats.__dataclass_fields__.keys() | {"queue", "for"} == set(schemas()["QueueStatus"]["required"])


def test_the_client_takes_the_fields_of_the_request() -> None:
    assert CallFields.__optional_keys__ | {"url"} == EnqueueRequest.model_fields.keys()


def test_every_filter_is_one_of_the_ledgers_selection() -> None:
    assert Filters.__optional_keys__ <= Selection.__dataclass_fields__.keys()
