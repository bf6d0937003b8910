from __future__ import annotations

import json
from typing import Any

import pytest

from support.example_records import EXAMPLES, TRACE
from support.log_entry import lift, seconds_of
from support.log_query import READING, SERIES, NotUnderstood, field_of, read
from traced_relay.logs.record import Identity, record

ENTRY: dict[str, Any] = {
    "severity": "WARNING",
    "resource": {"type": "gae_app", "labels": {}},
    "operation": {"id": "ab", "producer": "traced-relay"},
    "jsonPayload": {
        "event": "attempt.finished",
        "latency_ms": 1500,
        "reason": None,
        "trace_rewritten": False,
        "size": "12",
        "timing": {"token_ms": 3},
    },
}


@pytest.mark.parametrize(
    "text",
    [
        'jsonPayload.event="attempt.finished"',
        'jsonPayload.event="Attempt.FINISHED"',
        'jsonPayload.event = "x" OR jsonPayload.event = "attempt.finished"',
        'jsonPayload.event=("x" OR "attempt.finished")',
        'jsonPayload.event!="x"',
        'jsonPayload.event:"Finished"',
        'jsonPayload.event:("x" OR "attempt.")',
        'NOT jsonPayload.event="x"',
        'jsonPayload.event="attempt.finished" resource.type="gae_app"',
        'jsonPayload.event="attempt.finished" -- what is said of it\nAND resource.type="gae_app"',
        '(jsonPayload.event="x" OR resource.type="gae_app") AND severity=WARNING',
        "severity>=NOTICE",
        "severity<ERROR",
        "jsonPayload.latency_ms>=1500",
        'jsonPayload.latency_ms>"1499.5"',
        "jsonPayload.latency_ms=1500",
        "jsonPayload.trace_rewritten=false",
        "jsonPayload.size>9",
        "jsonPayload.timing.token_ms<=3",
        'operation.producer="traced-relay"',
    ],
)
def test_what_holds_of_an_entry_matches_it(text: str) -> None:
    assert read(text).matches(ENTRY)


@pytest.mark.parametrize(
    "text",
    [
        'jsonPayload.event="attempt"',
        'jsonPayload.event:"started"',
        'jsonPayload.reason:"x"',
        'jsonPayload.event="x" AND resource.type="gae_app"',
        'resource.type="gae_app" OR severity=WARNING jsonPayload.event="x"',
        "severity>WARNING",
        "jsonPayload.latency_ms>1500",
        'jsonPayload.latency_ms="abc"',
        'jsonPayload.latency_ms>"abc"',
        "jsonPayload.event>=0",
        "jsonPayload.reason>=0",
        'jsonPayload.reason!="x"',
        'jsonPayload.nothing!="x"',
        'jsonPayload.event.deeper="x"',
        "jsonPayload.timing>=0",
    ],
)
def test_what_does_not_hold_or_cannot_be_compared_does_not_match(text: str) -> None:
    assert not read(text).matches(ENTRY)


def test_or_binds_closer_than_and() -> None:
    text = 'resource.type="gae_app" OR resource.type="x" AND jsonPayload.event="x"'
    assert not read(text).matches(ENTRY)
    assert read('jsonPayload.event="x" AND severity=INFO OR severity=WARNING').matches(ENTRY) is False


@pytest.mark.parametrize(
    "text",
    [
        "",
        "attempt",
        '"attempt.finished"',
        'jsonPayload.event="a" and jsonPayload.event="b"',
        "jsonPayload.event=attempt.finished",
        'jsonPayload.event=~"attempt"',
        'jsonPayload.event=("a" AND "b")',
        'jsonPayload.event=("a" "b")',
        'jsonPayload.event!=("a" OR "b")',
        'jsonPayload.event=("a" OR)',
        'jsonPayload.event="a',
        '(jsonPayload.event="a"',
        'jsonPayload.event="a")',
        'jsonPayload.event="a" OR',
        'jsonPaylod.event="a"',
        'timestamp>="2026-11-21T18:00:00Z"',
        "severity>=BAD",
        'sample(insertId, 0.1) AND jsonPayload.event="a"',
        'AND="a"',
        'jsonPayload.event="a" ; x',
        'jsonPayload.event="' + "a" * 20_000 + '"',
    ],
)
def test_what_is_not_known_is_refused(text: str) -> None:
    with pytest.raises(NotUnderstood):
        read(text).matches(ENTRY)


def test_a_severity_that_is_none_is_refused() -> None:
    with pytest.raises(NotUnderstood, match="no severity"):
        read('severity>="BAD"').matches(ENTRY)


def test_a_question_may_be_about_times_and_logs() -> None:
    entry = ENTRY | {"timestamp": "2026-11-21T18:00:00.5Z", "logName": "projects/p/logs/stdout"}
    asked = 'timestamp>="2026-11-21T18:00:00Z" AND timestamp<"2026-11-21T19:00:01+01:00"'
    assert read(f'{asked} AND logName="projects/p/logs/stdout"', READING).matches(entry)
    assert not read('timestamp>"2026-11-21T18:00:00.6Z"', READING).matches(entry)


def test_time_series_have_fields_of_their_own() -> None:
    text = 'metric.type="a" AND metric.labels.verdict="retry"'
    query = read(text, SERIES)
    assert query.matches({"metric": {"type": "a", "labels": {"verdict": "retry"}}})
    assert (query.fields, query.texts) == (("metric.type", "metric.labels.verdict"), ("a", "retry"))
    with pytest.raises(NotUnderstood):
        read(text)


@pytest.mark.parametrize(("event", "fields", "severity"), EXAMPLES)
def test_every_record_is_lifted_to_an_entry_without_a_remainder(
    event: str, fields: dict[str, Any], severity: str
) -> None:
    identity = Identity("demo-project", "v1", "i")
    plain = record(event, fields, message="m", at=12.5, identity=identity, trace=TRACE)
    entry = lift(json.dumps(plain | {"logging.googleapis.com/insertId": "x"}))
    assert (entry["severity"], seconds_of(entry), entry["insertId"]) == (severity, 12.5, "x")
    assert entry["trace"] == f"projects/demo-project/traces/{TRACE.trace_id}"
    assert entry["labels"]["event"] == event
    kept = {name: value for name, value in fields.items() if name != "httpRequest"}
    about = {"event": event, "message": "m", "version": "v1", "instance": "i"}
    assert entry["jsonPayload"] == kept | about
    assert entry.get("httpRequest") == fields.get("httpRequest")


def test_a_line_that_is_no_object_is_text() -> None:
    for line, text in (("plain", "plain"), ('["a"]', '["a"]'), ('{"message": "hello", "severity": "INFO"}', "hello")):
        entry = lift(line)
        assert entry["textPayload"] == text
        assert field_of(entry, "jsonPayload.event") is None


def test_a_special_key_that_is_not_known_is_not_passed_over() -> None:
    with pytest.raises(KeyError):
        lift('{"logging.googleapis.com/Trace": "x"}')
    assert lift('{"severity": "LOUD", "a": 1}')["severity"] == "DEFAULT"
