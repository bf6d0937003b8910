"""Calls that take a day, by a clock that is turned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support.asking import get, post
from support.hanging import Hanging
from support.schema import validate
from traced_relay.tasks.call import DAY
from traced_relay.testing import Downstream

if TYPE_CHECKING:
    from traced_relay.testing import ManualClock, RunningRelay

pytestmark = pytest.mark.whole


def beats(relay: RunningRelay, task_id: str) -> list[dict[str, Any]]:
    return [record for record in relay.records.records(task_id) if record["event"] == "attempt.heartbeat"]


def test_a_call_of_24_hours_is_seen_every_minute_and_cut_at_its_end(timeless: RunningRelay, clock: ManualClock) -> None:
    hang = Hanging(50)
    with Downstream(hang) as downstream:
        receipt = post(f"{timeless.url}/v1/tasks", {"url": downstream.url, "timeout": "24h"}).document
        task_id = receipt["task_id"]
        downstream.wait_for(1)
        for minute in range(1, 24 * 60):
            clock.advance(60)
            assert timeless.records.wait_for("attempt.heartbeat", task_id, 10, nth=minute)
        document = get(receipt["links"]["status"]).document
        assert (document["state"], document["attempt"]) == ("running", 1)
        clock.advance(60)
        timeless.wait_for("task.finished", task_id)
        hang.release()
    document = get(receipt["links"]["status"]).document
    (finished,) = (r for r in timeless.records.records(task_id) if r["event"] == "attempt.finished")
    (attempt,) = document["attempts"]
    assert (finished["verdict"], finished["reason"], finished["latency_ms"]) == ("gave_up", "timeout", DAY * 1000)
    assert (attempt["verdict"], attempt["reason"], attempt["latency_ms"]) == ("gave_up", "timeout", DAY * 1000)
    assert (document["state"], document["reason"], document["total_ms"]) == ("failed", "timeout", DAY * 1000)
    seen = [(record["elapsed_ms"], record["deadline_in_ms"]) for record in beats(timeless, task_id)]
    assert seen == [(60_000 * minute, 60_000 * (24 * 60 - minute)) for minute in range(1, 24 * 60)]
    for record in timeless.records.records(task_id)[::100]:
        validate(record)
