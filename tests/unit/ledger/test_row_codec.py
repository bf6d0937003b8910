from __future__ import annotations

import json
import traceback
from typing import TYPE_CHECKING, Any

import pytest

from support.example_rows import FULL, row
from traced_relay.errors import Unavailable
from traced_relay.ledger.row_codec import columns_of, row_of

if TYPE_CHECKING:
    from traced_relay.tasks.row import Row

# What the version before wrote for FULL: every field, a default too.
WRITTEN = """
{
 "task_id": "0123456789abcdef0123456789abcdef",
 "kind": "callback",
 "queue": "relay",
 "call": {
  "url": "https://reports.example.com/build?month=7",
  "method": "PUT",
  "headers": {
   "content-type": "text/plain",
   "x": ""
  },
  "timeout": 600.0,
  "retry": {
   "max_attempts": 7,
   "max_retry_duration": "0s",
   "min_backoff": "0.1s",
   "max_backoff": "5m",
   "max_doublings": 3,
   "jitter": "none",
   "retryable_status_codes": [
    500
   ]
  },
  "idempotent": true,
  "labels": {
   "team": "billing",
   "\\u00e9\\ud83d\\ude00": ""
  },
  "callback": {
   "url": "https://hooks.example.com/",
   "on": [
    "failed"
   ]
  }
 },
 "rule": null,
 "caller": "reports@p.iam.gserviceaccount.com",
 "fingerprint": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
 "origin": "",
 "adopted_task_name": "projects/p/locations/l/queues/q/tasks/t",
 "callback_of": null,
 "callback_round": null,
 "sent_at": null,
 "carrier": {
  "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
 },
 "trace_id": "0af7651916cd43dd8448eb211c80319c",
 "span_id": "b7ad6b7169203331",
 "sampled": false,
 "state": "running",
 "round": 2,
 "created_at": 1790000000.0,
 "schedule_time": 1790000000.0,
 "round_due_at": null,
 "next_attempt_at": null,
 "finished_at": 1790000003.0,
 "first_started_at": 1790000000.1,
 "cancel_requested_at": null,
 "actor": null,
 "attempt": 1,
 "first_number": 1,
 "awaited": 1,
 "started": 1,
 "interruptions": 1,
 "worker": "w1",
 "reason": "http_503",
 "blame": "downstream",
 "attempts": [
  {
   "attempt": 1,
   "round": 1,
   "task_name": "0123456789abcdef0123456789abcdef-1",
   "span_id": "00f067aa0ba902b7",
   "version": "v7",
   "instance": "i-1",
   "started_at": 1790000000.123456,
   "ended_at": 1790000001.0,
   "queue_delay_ms": 3,
   "latency_ms": 876,
   "status_code": 503,
   "verdict": "retry",
   "reason": "http_503",
   "blame": "downstream",
   "retry_delay_ms": 1500,
   "delay_reason": "retry_after"
  }
 ],
 "response": {
  "status_code": 503,
  "headers": {
   "x": "\\u00ff\\u007f"
  },
  "truncated": true
 },
 "revision": 4
}
"""
BODIES = (bytes(range(256)), b"\xff\x00")


def document_of(stored: Row) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(columns_of(stored)["document"])
    return found


def test_a_row_of_the_version_before_is_read() -> None:
    assert row_of((WRITTEN, 0, None), *BODIES) == FULL


def test_a_document_has_every_field_that_is_no_default() -> None:
    before: dict[str, Any] = json.loads(WRITTEN)
    written = document_of(FULL)
    assert written.items() <= before.items()
    assert all(before[name] in (None, "", 1) for name in before.keys() - written.keys())


def test_a_document_has_no_body() -> None:
    written = document_of(FULL)
    assert "body" not in written["call"] | written["response"]
    assert row_of((json.dumps(written), 0, None), *BODIES) == FULL


def test_what_changes_on_its_own_is_not_in_the_document() -> None:
    noted = FULL.changed(noted_attempt=7, callback_ended_at=5.0)
    assert columns_of(noted)["document"] == columns_of(FULL)["document"]
    assert row_of((columns_of(noted)["document"], 7, 5.0), *BODIES) == noted


@pytest.mark.parametrize(
    "change",
    [{"attempt": "1"}, {"state": "lost"}, {"created_at": None}, {"call": {}}, {"attempts": [{}]}, {"revision": 1.5}],
)
def test_a_document_is_read_strictly(change: dict[str, Any]) -> None:
    with pytest.raises(Unavailable, match="cannot read"):
        row_of((json.dumps(document_of(row()) | change), 0, None))


@pytest.mark.parametrize("document", ["", "{", "[]", "null", '{"task_id": "\\udc00"}'])
def test_what_is_no_row_is_unavailable(document: str) -> None:
    with pytest.raises(Unavailable, match="cannot read"):
        row_of((document, 0, None))


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"state": "s3cret"}, ", at `$.state`"),
        ({"state": "s3cret - at `$.s3cret`"}, ", at `$.state`"),
        ({"kind": "s3cret\n - at `$.s3cret`"}, ", at `$.kind`"),
        ({"attempts": [{"s3cret": 1}]}, ", at `$.attempts[0]`"),
        ({"carrier": {"s3cret": 1}}, ", at `$.carrier[...]`"),
        ({"call": {"retry": {"jitter": "s3cret"}, "url": "", "timeout": 1.0}}, ", at `$.call.retry`"),
    ],
)
def test_an_unreadable_value_is_not_quoted(change: dict[str, Any], place: str) -> None:
    with pytest.raises(Unavailable) as caught:
        row_of((json.dumps(document_of(row()) | change), 0, None))
    assert str(caught.value) == f"the ledger contains a row that this version cannot read{place}"
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))
