from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support.asking import ask, get, post
from support.example_rows import TASK_ID, call, row
from support.schema import validate
from support.storied import story
from traced_relay.ledger.sqlite import SqliteLedger
from traced_relay.tasks.call import DAY, Callback
from traced_relay.tasks.ids import callback_id
from traced_relay.tasks.row import Attempt
from traced_relay.testing import Downstream, ManualClock, RunningRelay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traced_relay.tasks.row import Row

QUEUE = "projects/test-project/locations/us-central1/queues/relay"
LATE = 61.0  # beyond the grace, which is as long as the time between two sweeps


@pytest.fixture
def relay(clock: ManualClock) -> Iterator[RunningRelay]:
    with RunningRelay(clock=clock, callback_secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw") as running:
        yield running


def stored(relay: RunningRelay, clock: ManualClock, url: str, **changes: Any) -> Row:
    """A row as a process leaves it behind that dies before it comes to make the task."""
    now = clock.now()
    wanted = call(url=url, **changes.pop("call", {}))
    made = row(call=wanted, created_at=now, schedule_time=now, next_attempt_at=now, **changes)
    assert relay.application.ledger.insert(made)
    return made


def swept(relay: RunningRelay) -> dict[str, Any]:
    """The record of a sweep that was asked for."""
    before = sum(record["event"] == "relay.swept" for record in relay.records.records())
    assert get(f"{relay.url}/sweep").status == 200
    record = [record for record in relay.records.records() if record["event"] == "relay.swept"][before]
    validate(record)
    return record


def document(relay: RunningRelay, task_id: str) -> dict[str, Any]:
    found: dict[str, Any] = get(f"{relay.url}/v1/tasks/{task_id}").document
    return found


def test_a_row_whose_task_was_never_made_gets_one(
    relay: RunningRelay, clock: ManualClock, downstream: Downstream
) -> None:
    task_id = stored(relay, clock, downstream.url).task_id
    assert swept(relay)["recovered"] == 0  # it may be that somebody is about to make it
    clock.advance(LATE)
    relay.wait_for("task.finished", task_id)
    assert document(relay, task_id)["state"] == "succeeded"
    assert [record["event"] for record in story(relay, task_id)][:2] == ["task.enqueued", "attempt.started"]
    assert sum(r["recovered"] for r in relay.records.records() if r["event"] == "relay.swept") == 1


def test_a_purged_task_ends_as_removed_with_a_callback(
    relay: RunningRelay, clock: ManualClock, downstream: Downstream
) -> None:
    with Downstream() as receiver:
        body = {"url": downstream.url, "delay": "10m", "callback": {"url": receiver.url}}
        task_id = post(f"{relay.url}/v1/tasks", body).document["task_id"]
        assert ask("POST", f"{relay.queue.rest_url}/v2/{QUEUE}:purge").status == 200
        clock.advance(600 + LATE)
        relay.wait_for("task.finished", task_id)
        found = document(relay, task_id)
        assert (found["state"], found["reason"], found["blame"]) == ("cancelled", "removed", "platform")
        receiver.wait_for(1)
    assert downstream.arrived == []


def test_a_purge_holds_for_a_task_whose_creation_is_not_noted(
    relay: RunningRelay, clock: ManualClock, downstream: Downstream
) -> None:
    made = stored(relay, clock, downstream.url)  # its process died between making the task and noting it
    name = f"{QUEUE}/tasks/{made.task_id}-1"
    task = {"task": {"name": name, "appEngineHttpRequest": {"relativeUri": "/health"}}}
    assert post(f"{relay.queue.rest_url}/v2/{QUEUE}/tasks", task).status == 200
    ask("DELETE", f"{relay.queue.rest_url}/v2/{name}")
    clock.advance(LATE)
    relay.wait_for("task.finished", made.task_id)
    assert document(relay, made.task_id)["reason"] == "removed"


def test_a_task_in_a_paused_queue_is_counted_and_not_ended(
    relay: RunningRelay, clock: ManualClock, downstream: Downstream
) -> None:
    ask("POST", f"{relay.queue.rest_url}/v2/{QUEUE}:pause")
    task_id = post(f"{relay.url}/v1/tasks", {"url": downstream.url}).document["task_id"]
    clock.advance(LATE)
    record = swept(relay)
    assert (record["overdue"], record["oldest_overdue_ms"], record["recovered"]) == (1, 61_000, 0)
    found = document(relay, task_id)
    assert (found["state"], found["overdue_ms"]) == ("queued", 61_000)
    ask("POST", f"{relay.queue.rest_url}/v2/{QUEUE}:resume")
    relay.wait_for("task.finished", task_id)
    assert swept(relay)["overdue"] == 0


@pytest.mark.parametrize(("idempotent", "state"), [(True, "succeeded"), (False, "failed")])
def test_the_sweep_ends_a_dead_workers_attempt(
    relay: RunningRelay, clock: ManualClock, downstream: Downstream, idempotent: bool, state: str
) -> None:
    now = clock.now()
    begun = Attempt(
        attempt=1,
        round=1,
        task_name=f"{QUEUE}/tasks/x",
        span_id="1" * 16,
        version="v0",
        instance="dead",
        started_at=now,
    )
    lost = stored(
        relay,
        clock,
        downstream.url,
        state="running",
        worker="dead",
        attempt=1,
        started=1,
        noted_attempt=1,
        attempts=(begun,),
        call={"idempotent": idempotent},
    )
    record = swept(relay)
    assert record["workers_lost"] == 1
    clock.advance(30)
    relay.wait_for("task.finished", lost.task_id)
    found = document(relay, lost.task_id)
    assert found["state"] == state
    assert (found["attempts"][0]["reason"], found["attempts"][0]["blame"]) == ("worker_lost", "platform")
    (first, *_) = [r for r in relay.records.records(lost.task_id) if r["event"] == "attempt.finished"]
    assert (first["reason"], first["dispatch"], first["task_name"]) == ("worker_lost", None, begun.task_name)
    assert swept(relay)["workers_lost"] == 0


def test_a_callback_whose_task_was_never_made_gets_one(
    relay: RunningRelay, clock: ManualClock, downstream: Downstream
) -> None:
    with Downstream() as receiver:
        told = {"callback": Callback(url=receiver.url)}
        lost = stored(relay, clock, downstream.url, state="running", worker="w", attempt=1, started=1, call=told)
        ended = lost.changed(state="succeeded", worker=None, finished_at=clock.now(), revision=2)
        callback_builder = relay.application._step_applier.callback_builder
        assert relay.application.ledger.replace(ended, callback=callback_builder.build(ended, now=clock.now()))
        record = swept(relay)
        assert (record["callbacks_pending"], record["oldest_callback_ms"]) == (1, 0)
        assert document(relay, lost.task_id)["callback"]["state"] == "pending"
        clock.advance(LATE)
        receiver.wait_for(1)
        relay.wait_for("task.finished", callback_id(lost.task_id, 1))
    assert document(relay, lost.task_id)["callback"]["state"] == "delivered"


def test_rows_are_forgotten_a_while_after_their_end_and_never_before(
    relay: RunningRelay, clock: ManualClock, downstream: Downstream
) -> None:
    done = post(f"{relay.url}/v1/tasks", {"url": downstream.url}).document["task_id"]
    relay.wait_for("task.finished", done)
    waiting = post(f"{relay.url}/v1/tasks", {"url": downstream.url, "delay": "20d"}).document["task_id"]
    clock.advance(7 * DAY - 1)
    swept(relay)
    assert get(f"{relay.url}/v1/tasks/{done}").status == 200
    clock.advance(2)
    swept(relay)
    assert get(f"{relay.url}/v1/tasks/{done}").status == 404
    assert get(f"{relay.url}/v1/tasks/{waiting}").status == 200


def test_a_missing_queue_does_not_stop_the_sweep_of_others(
    relay: RunningRelay, clock: ManualClock, downstream: Downstream
) -> None:
    stored(relay, clock, downstream.url, queue="gone", task_id="0" * 32)
    other = stored(relay, clock, downstream.url, task_id="f" * 32)
    clock.advance(LATE)
    relay.wait_for("task.finished", other.task_id)
    assert document(relay, "0" * 32)["state"] == "queued"


def test_the_sweep_has_its_door() -> None:
    rules = {
        "queues": [{"name": "relay"}],
        "worker": {"app_engine": "default"},
        "audience": "https://relay.example.com",
        "callers": [
            {"email": "a@example.com", "queues": "*", "downstreams": "*"},
            {"email": "op@example.com", "role": "operator"},
        ],
    }
    with RunningRelay(rules=rules) as relay:

        def status(email: str) -> int:
            token = relay.queue.token(email, "https://relay.example.com")
            return ask("GET", f"{relay.url}/sweep", headers={"authorization": f"Bearer {token}"}).status

        assert get(f"{relay.url}/sweep").status == 401
        assert (status("a@example.com"), status("op@example.com")) == (403, 200)
        assert get(f"{relay.url}/sweep", X_Appengine_Cron="true").status == 200


def test_a_queue_that_is_not_there_has_lost_nobodys_task(
    relay: RunningRelay, clock: ManualClock, downstream: Downstream
) -> None:
    stored(relay, clock, downstream.url, queue="elsewhere", noted_attempt=1)
    clock.advance(LATE)
    assert swept(relay)["overdue"] == 1
    assert document(relay, TASK_ID)["state"] == "queued"


def test_a_key_that_outlived_its_row_gets_a_task_of_another_name(
    relay: RunningRelay, clock: ManualClock, downstream: Downstream
) -> None:
    first = post(f"{relay.url}/v1/tasks", {"url": downstream.url}, Idempotency_Key="nightly").document
    relay.wait_for("task.finished", first["task_id"])
    assert relay.application.ledger.get(first["task_id"])
    forget(relay, first["task_id"])
    again = post(f"{relay.url}/v1/tasks", {"url": downstream.url}, Idempotency_Key="nightly").document
    assert again["task_id"] == first["task_id"]
    assert again["task_name"].endswith("-2")
    assert relay.records.wait_for("task.finished", first["task_id"], 10, nth=2)
    assert len(downstream.wait_for(2)) == 2
    last = post(f"{relay.url}/v1/tasks", {"url": downstream.url}, Idempotency_Key="nightly").document
    assert last == again | {"state": "succeeded"}


def forget(relay: RunningRelay, task_id: str) -> None:
    ledger = relay.application.ledger
    assert isinstance(ledger, SqliteLedger)
    ledger._commits.write(lambda db: db.execute("DELETE FROM tasks WHERE task_id = ?", (task_id,)))
