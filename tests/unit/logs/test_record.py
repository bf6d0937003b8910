from __future__ import annotations

from typing import Any

import pytest

from support.example_records import DISPATCH, EXAMPLES, FINISHED, RETRY, TASK, TASK_ID, TRACE
from support.schema import SCHEMA, validate
from traced_relay.logs.record import Identity, record

IDENTITY = Identity("demo-project", "v7", "i-1")
PREFIX = "logging.googleapis.com/"


def made(event: str, fields: dict[str, Any], **more: Any) -> dict[str, Any]:
    given = {"message": "it is so", "at": 1.5, "identity": IDENTITY, "trace": TRACE}
    return record(event, fields, **(given | more))


@pytest.mark.parametrize(("event", "fields", "expected"), EXAMPLES)
def test_every_record_of_the_contract_fits_the_schema(event: str, fields: dict[str, Any], expected: str) -> None:
    entry = made(event, fields, trace=TRACE if "task_id" in fields else None)
    validate(entry)
    assert entry["severity"] == expected


def test_every_event_of_the_schema_has_an_example() -> None:
    assert {event for event, _, _ in EXAMPLES} == set(SCHEMA["then"]["properties"]["event"]["enum"])


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        ("task.enqueued", TASK | {"body": "secret"}),
        ("task.enqueued", TASK | {"callback_of": TASK_ID}),
        ("task.enqueued", TASK | {"kind": "callback"}),
        ("task.enqueued", TASK | {"round": 0}),
        ("task.enqueued", TASK | {"task_id": "42"}),
        ("attempt.started", TASK),
        ("attempt.started", DISPATCH | {"attempt": "2"}),
        ("attempt.started", DISPATCH | {"dispatch": DISPATCH["dispatch"] | {"task_eta": "soon"}}),
        ("attempt.finished", FINISHED | {"verdict": "fine"}),
        ("attempt.finished", FINISHED | {"reason": "bad_luck"}),
        ("attempt.finished", FINISHED | RETRY),
        ("attempt.finished", FINISHED | {"timing": {"connect_ms": 1}}),
        ("attempt.finished", FINISHED | {"httpRequest": {"status": 200}}),
        ("attempt.started", DISPATCH | {"task_name": f"{TASK_ID}-2"}),
        ("task.finished", TASK | {"state": "waiting"}),
        ("downstream.denied", TASK | {"downstream": "10.0.0.1", "reason": "denied"}),
        ("downstream.denied", DISPATCH | {"downstream": "10.0.0.1", "reason": "timeout"}),
        ("dispatch.deferred", {"reason": "capacity", "queue": "relay"}),
        ("dispatch.deferred", {"reason": "capacity", "queue": "relay", "task_name": "x"}),
        ("task.cancelled", TASK),
        ("relay.stopping", {"signal": "SIGTERM"}),
        ("relay.rested", {}),
    ],
)
def test_a_record_outside_the_contract_fails_the_schema(event: str, fields: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        validate(made(event, fields))


def test_a_wrong_severity_fails_the_schema() -> None:
    with pytest.raises(AssertionError):
        validate(made("attempt.finished", FINISHED | RETRY | {"verdict": "gave_up"}) | {"severity": "INFO"})


def test_a_task_record_needs_its_trace() -> None:
    with pytest.raises(AssertionError):
        validate(made("task.enqueued", TASK, trace=None))


def test_a_record_in_full() -> None:
    assert made("task.enqueued", TASK) == {
        "event": "task.enqueued",
        "kind": "call",
        "queue": "relay",
        "task_id": TASK_ID,
        "round": 1,
        "version": "v7",
        "instance": "i-1",
        "severity": "INFO",
        "time": "1970-01-01T00:00:01.500000Z",
        "message": "it is so",
        PREFIX + "trace": "projects/demo-project/traces/0af7651916cd43dd8448eb211c80319c",
        PREFIX + "spanId": "b7ad6b7169203331",
        PREFIX + "trace_sampled": True,
        PREFIX + "operation": {"id": TASK_ID, "producer": "traced-relay", "first": True},
        PREFIX + "labels": {"event": "task.enqueued", "queue": "relay", "kind": "call", "task_id": TASK_ID},
        PREFIX + "insertId": f"task.enqueued-{TASK_ID}-r1",
    }


def test_an_operation_starts_and_ends_with_the_task() -> None:
    ends = [made(event, TASK)[PREFIX + "operation"] for event in ("task.enqueued", "attempt.started", "task.finished")]
    whole = {"id": TASK_ID, "producer": "traced-relay"}
    assert ends == [whole | {"first": True}, whole, whole | {"last": True}]


def test_a_repeated_record_has_the_same_insert_id() -> None:
    first, second = FINISHED | {"attempt": 1}, FINISHED | {"attempt": 2}
    ids = [made("attempt.finished", fields)[PREFIX + "insertId"] for fields in (first, first, second)]
    ids += [made("task.finished", TASK | {"round": n})[PREFIX + "insertId"] for n in (1, 2)]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 4


def test_a_heartbeat_has_no_insert_id_of_its_own() -> None:
    assert PREFIX + "insertId" not in made("attempt.heartbeat", DISPATCH)


def test_a_field_cannot_replace_what_cloud_logging_reads() -> None:
    forged = {"severity": "CRITICAL", "time": "never", "message": "forged", PREFIX + "trace": "x", "version": "v0"}
    entry = made("task.enqueued", TASK | forged)
    assert entry == made("task.enqueued", TASK)


def test_the_query_of_a_url_is_left_out() -> None:
    entry = made("attempt.finished", FINISHED | {"httpRequest": {"requestUrl": "https://x/a?token=1#part"}})
    assert entry["httpRequest"] == {"requestUrl": "https://x/a"}


def test_an_unverified_claim_is_no_label() -> None:
    entry = made("dispatch.rejected", {"queue": "forged", "task_id": TASK_ID, "kind": "call"})
    assert entry[PREFIX + "labels"] == {"event": "dispatch.rejected"}
    assert PREFIX + "operation" not in entry
