"""Records from files: lines as the relay prints them, entries a line each, and gcloud's output."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.example_records import EXAMPLES, TRACE
from support.log_entry import lift
from traced_relay.logs.cloud_entries import as_record, is_gclouds_yaml, records_in, records_of
from traced_relay.logs.record import Identity, record

IDENTITY = Identity("demo-project", "v1", "i")
PRINTED = [
    record(event, fields, message="m", at=12.5, identity=IDENTITY, trace=TRACE)
    | {"logging.googleapis.com/insertId": str(number)}
    for number, (event, fields, _) in enumerate(EXAMPLES)
]
ENTRIES = [lift(json.dumps(printed)) for printed in PRINTED]


def read(text: str) -> list[dict[str, Any]]:
    return [piece for piece in records_in([text]) if isinstance(piece, dict)]


@pytest.mark.parametrize(
    ("entry", "printed"), [*zip(ENTRIES, PRINTED, strict=True)], ids=[event for event, *_ in EXAMPLES]
)
def test_an_entry_is_the_record_that_was_printed(entry: dict[str, object], printed: dict[str, object]) -> None:
    assert as_record(entry) == printed


@pytest.mark.parametrize(
    "text",
    [
        "".join(json.dumps(one) + "\n" for one in PRINTED),
        "".join(json.dumps(one) + "\n" for one in ENTRIES),
        json.dumps(ENTRIES, indent=2),
        "\n" + json.dumps(PRINTED),
        "starting\n[1]\n" + "".join(json.dumps(one) + "\n" for one in ENTRIES) + "torn off: {",
    ],
    ids=["lines", "entries", "gcloud", "list", "mixed"],
)
def test_records_and_entries_are_read_from_a_file(text: str) -> None:
    assert read(text) == PRINTED


def test_a_line_of_text_is_a_record_of_its_text() -> None:
    entry = {"insertId": "a", "timestamp": "2026-11-21T18:00:00Z", "textPayload": "hello", "logName": "l"}
    assert as_record(entry)["message"] == "hello"


@pytest.mark.parametrize(("payload", "message"), [(5, "5"), ([1], "[1]"), ("abc", '"abc"'), ({}, ""), (None, "")])
def test_a_payload_that_is_no_object_is_its_text(payload: object, message: str) -> None:
    entry = {"insertId": "a", "timestamp": "2026-11-21T18:00:00Z", "jsonPayload": payload}
    assert as_record(entry)["message"] == message


def test_an_entry_without_timestamp_has_its_receive_time() -> None:
    assert as_record({"textPayload": "x", "receiveTimestamp": "2026-11-21T18:00:00Z"})["time"] == "2026-11-21T18:00:00Z"
    assert as_record({"textPayload": "x"})["time"] == ""


def test_nan_and_infinity_become_none() -> None:
    line = '{"message": "m", "severity": "INFO", "a": Infinity, "b": NaN, "c": 1e999, "d": 1.5}'
    expected = {"message": "m", "severity": "INFO", "a": None, "b": None, "c": None, "d": 1.5}
    assert records_of(line) == [expected]


@pytest.mark.parametrize("line", ["", "x", "[]", "1", "{}", '{"message": "m"}', '{"timestamp": 1}', "[" * 100_000])
def test_other_text_has_no_records(line: str) -> None:
    assert records_of(line) == []
    assert read(line) == []


PAYLOAD = {"message": "m", "event": "task.finished", "task_id": "a1", "round": 1}
LINE = json.dumps(PRINTED[0])


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"entries": ENTRIES[:1], "nextPageToken": "x"}),
        json.dumps({"log": LINE + "\n", "stream": "stdout", "time": "2026-11-21T18:00:00Z"}),
        json.dumps({"MESSAGE": LINE, "_PID": "1"}),
    ],
    ids=["the API's answer", "Docker's file", "journald's JSON"],
)
def test_a_record_in_another_format_is_unwrapped(text: str) -> None:
    assert records_of(text) == [PRINTED[0]]


@pytest.mark.parametrize("text", [json.dumps(PAYLOAD), json.dumps({"jsonPayload": PAYLOAD})])
def test_a_payload_alone_is_a_record_without_time(text: str) -> None:
    assert records_of(text) == [PAYLOAD | {"severity": "DEFAULT", "time": ""}]


def test_a_projection_of_entries_is_read() -> None:
    text = json.dumps({"timestamp": "2026-11-21T18:00:00Z", "severity": "INFO", "jsonPayload": PAYLOAD})
    assert records_of(text) == [PAYLOAD | {"severity": "INFO", "time": "2026-11-21T18:00:00Z"}]


@pytest.mark.parametrize(("number", "name"), [(0, "DEFAULT"), (300, "NOTICE"), (800, "EMERGENCY"), (123, "DEFAULT")])
def test_a_severity_that_is_a_number_is_its_name(number: int, name: str) -> None:
    (camel,) = records_of(json.dumps({"jsonPayload": PAYLOAD, "severity": number}))
    assert camel["severity"] == name
    (found,) = records_of(
        json.dumps({"json_payload": PAYLOAD, "severity": number, "trace": "", "trace_sampled": False})
    )
    assert found == PAYLOAD | {"severity": name, "time": ""}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("insertId: x", True),
        ("json_payload:", True),
        ("textPayload: a", True),
        ("  insertId: x", False),
        ("a: b", False),
    ],
)
def test_gclouds_yaml_is_known_by_its_fields(line: str, expected: bool) -> None:
    assert is_gclouds_yaml(line) is expected
