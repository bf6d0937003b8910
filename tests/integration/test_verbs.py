from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from werkzeug.wrappers import Response

from support.asking import ask, get, post
from support.hanging import Hanging
from support.storied import story
from traced_relay.client import task_text
from traced_relay.console.task_rows import row as console_row
from traced_relay.formats.durations import readable
from traced_relay.testing import Downstream, RunningRelay
from traced_relay.timeline import build

if TYPE_CHECKING:
    from support.asking import Answer
    from traced_relay.testing import Arrived, ManualClock

QUEUE = "projects/test-project/locations/us-central1/queues/relay"


def said(relay: RunningRelay, task_id: str) -> list[str]:
    return [record["event"] for record in story(relay, task_id)]


def enqueued(relay: RunningRelay, url: str, **changes: Any) -> str:
    answer = post(f"{relay.url}/v1/tasks", {"url": url} | changes)
    assert answer.status == 202, answer.document
    return str(answer.document["task_id"])


def verb(relay: RunningRelay, task_id: str, name: str) -> Answer:
    return ask("POST", f"{relay.url}/v1/tasks/{task_id}:{name}")


def test_what_waits_is_cancelled_and_taken_out_of_the_queue(relay: RunningRelay, downstream: Downstream) -> None:
    task_id = enqueued(relay, downstream.url, delay="1h")
    assert waits_in_queue(relay, task_id)
    answer = verb(relay, task_id, "cancel")
    assert answer.status == 202
    assert (answer.document["state"], answer.document["reason"]) == ("cancelled", "cancelled")
    assert answer.document["actor"] == "anybody on loopback"
    assert answer.document["cancel_requested_at"] is not None
    assert not waits_in_queue(relay, task_id)
    assert said(relay, task_id) == ["task.enqueued", "task.cancelled", "task.finished"]
    again = verb(relay, task_id, "cancel")
    assert (again.status, again.document) == (200, get(f"{relay.url}/v1/tasks/{task_id}").document)
    assert said(relay, task_id) == ["task.enqueued", "task.cancelled", "task.finished"]


def waits_in_queue(relay: RunningRelay, task_id: str) -> bool:
    return get(f"{relay.queue.rest_url}/v2/{QUEUE}/tasks/{task_id}-1").status == 200


def test_what_runs_is_cut_at_once_and_its_late_answer_counts_no_more(relay: RunningRelay) -> None:
    hanging = Hanging()
    with Downstream(hanging) as downstream:
        task_id = enqueued(relay, downstream.url)
        downstream.wait_for(1)
        answer = verb(relay, task_id, "cancel")
        assert (answer.status, answer.document["state"]) == (202, "cancelled")
        (attempt,) = answer.document["attempts"]
        assert (attempt["verdict"], attempt["reason"], attempt["blame"]) == ("cancelled", "cancelled", "caller")
        wait_until_gone(relay, task_id)
        hanging.release()
    assert said(relay, task_id) == [
        "task.enqueued",
        "attempt.started",
        "attempt.finished",
        "task.cancelled",
        "task.finished",
    ]
    (process,) = [s for s in relay.spans.spans(answer.document["trace_id"]) if s.name == "process relay"]
    assert (process.attributes["relay.verdict"], process.attributes["error.type"]) == ("cancelled", "cancelled")
    assert process.status == "ERROR"


def wait_until_gone(relay: RunningRelay, task_id: str) -> None:
    """Until the queue's delivery was answered with 200, which is when the worker has let go of the call."""
    for _ in range(5000):
        if not waits_in_queue(relay, task_id):
            return
    raise AssertionError("the queue delivers it still")


@pytest.mark.parametrize("status", [200, 404])
def test_what_has_ended_otherwise_cannot_be_cancelled(relay: RunningRelay, status: int) -> None:
    with Downstream(status) as downstream:
        task_id = enqueued(relay, downstream.url)
        relay.wait_for("task.finished", task_id)
    before = get(f"{relay.url}/v1/tasks/{task_id}").document
    answer = verb(relay, task_id, "cancel")
    assert (answer.status, answer.headers["content-type"]) == (409, "application/problem+json")
    assert get(f"{relay.url}/v1/tasks/{task_id}").document == before


def test_a_redriven_task_keeps_its_trace_and_attempt_numbers(relay: RunningRelay) -> None:
    with Downstream(404, 200) as downstream:
        task_id = enqueued(relay, downstream.url)
        failed = relay.wait_for("task.finished", task_id)
        answer = verb(relay, task_id, "redrive")
        assert (answer.status, answer.document["round"], answer.document["reason"]) == (202, 2, None)
        assert relay.records.wait_for("task.finished", task_id, 10, nth=2)
        first, second = downstream.wait_for(2)
    document = get(f"{relay.url}/v1/tasks/{task_id}").document
    assert (document["state"], document["attempt"], document["retry_count"]) == ("succeeded", 2, 0)
    assert [(a["attempt"], a["round"], a["verdict"]) for a in document["attempts"]] == [
        (1, 1, "gave_up"),
        (2, 2, "succeeded"),
    ]
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"] == task_id
    assert first.headers["traceparent"].split("-")[1] == second.headers["traceparent"].split("-")[1]
    finished = relay.records.wait_for("task.finished", task_id, 1, nth=2) or {}
    assert (failed["round"], finished["round"], finished["attempt_count"]) == (1, 2, 1)
    assert said(relay, task_id)[-4:] == ["task.redriven", "attempt.started", "attempt.finished", "task.finished"]


def lengths(relay: RunningRelay, task_id: str, nth: int) -> set[float]:
    """The seconds of its latest round, as its record, its documents, the console and `explain` have them."""
    record = relay.records.wait_for("task.finished", task_id, 10, nth=nth) or {}
    document = get(f"{relay.url}/v1/tasks/{task_id}").document
    (listed,) = get(f"{relay.url}/v1/tasks").document["tasks"]
    built = build.build(document, relay.records.records(task_id))
    assert f", {readable(built.duration or 0)}" in task_text.state_text(document).replace(" in ", ", ")
    in_milliseconds = (record["total_ms"], document["total_ms"], listed["total_ms"])
    return {*(each / 1000 for each in in_milliseconds), console_row(document)["total"], built.duration}


def test_every_view_has_the_same_length_of_a_round(timeless: RunningRelay, clock: ManualClock) -> None:
    def slowly(_: Arrived) -> Response:
        clock.advance(2)
        return Response(status=404)

    with Downstream(slowly, slowly, slowly) as downstream:
        task_id = enqueued(timeless, downstream.url, delay="1h")
        clock.advance(3600)
        assert lengths(timeless, task_id, 1) == {2.0}
        for nth in (2, 3):
            clock.advance(86_400)
            assert verb(timeless, task_id, "redrive").status == 202
            assert lengths(timeless, task_id, nth) == {2.0}


def test_a_task_that_is_run_early_is_due_then(timeless: RunningRelay, clock: ManualClock) -> None:
    def slowly(_: Arrived) -> Response:
        clock.advance(2)
        return Response(status=404)

    with Downstream(slowly) as downstream:
        task_id = enqueued(timeless, downstream.url, delay="1h")
        clock.advance(60)
        assert post(f"{timeless.queue.rest_url}/v2/{QUEUE}/tasks/{task_id}-1:run", {}).status == 200
        assert lengths(timeless, task_id, 1) == {2.0}


def test_a_cancelled_task_runs_after_all(relay: RunningRelay, downstream: Downstream) -> None:
    task_id = enqueued(relay, downstream.url, delay="1h")
    verb(relay, task_id, "cancel")
    assert verb(relay, task_id, "redrive").status == 202
    assert relay.records.wait_for("task.finished", task_id, 10, nth=2)
    document = get(f"{relay.url}/v1/tasks/{task_id}").document
    assert (document["state"], document["retry_count"], document["cancel_requested_at"]) == ("succeeded", 0, None)


def test_what_runs_waits_or_succeeded_is_not_redriven(relay: RunningRelay, downstream: Downstream) -> None:
    waiting = enqueued(relay, downstream.url, delay="1h")
    done = enqueued(relay, downstream.url)
    relay.wait_for("task.finished", done)
    for task_id in (waiting, done):
        answer = verb(relay, task_id, "redrive")
        assert (answer.status, "only a failed or cancelled task" in answer.document["detail"]) == (409, True)
    verb(relay, waiting, "cancel")


@pytest.mark.parametrize("name", ["cancel", "redrive", "resend-callback"])
@pytest.mark.parametrize("task_id", ["f" * 32, "nonsense", "F" * 32, "%00"])
def test_no_verb_has_a_task_that_is_not_there(relay: RunningRelay, name: str, task_id: str) -> None:
    assert verb(relay, task_id, name).status == 404


def test_callers_see_their_own_tasks_and_operators_all(downstream: Downstream) -> None:
    rules = {
        "queues": [{"name": "relay"}],
        "worker": {"app_engine": "default"},
        "audience": "https://relay.example.com",
        "callers": [
            {"email": "a@example.com", "queues": "*", "downstreams": "*"},
            {"email": "b@example.com", "queues": "*", "downstreams": "*"},
            {"email": "op@example.com", "role": "operator"},
        ],
        "downstreams": [{"name": "any", "url": "http://127.0.0.1:*/", "auth": "none", "allow_private": True}],
    }
    with RunningRelay(rules=rules) as relay:

        def bearer(email: str) -> dict[str, str]:
            return {"authorization": f"Bearer {relay.queue.token(email, 'https://relay.example.com')}"}

        made = post(f"{relay.url}/v1/tasks", {"url": downstream.url, "delay": "1h"}, **bearer("a@example.com"))
        url = f"{relay.url}/v1/tasks/{made.document['task_id']}:cancel"
        assert ask("POST", url).status == 401
        assert ask("POST", url, headers=bearer("b@example.com")).status == 404
        cancelled = ask("POST", url, headers=bearer("op@example.com"))
        assert (cancelled.status, cancelled.document["actor"]) == (202, "op@example.com")
        assert ask("POST", url, headers=bearer("a@example.com")).status == 200


def test_a_cut_that_comes_late_does_not_meet_the_next_round(relay: RunningRelay) -> None:
    first, second = Hanging(), Hanging()
    with Downstream(first, second) as downstream:
        task_id = enqueued(relay, downstream.url)
        downstream.wait_for(1)
        verb(relay, task_id, "cancel")
        verb(relay, task_id, "redrive")
        downstream.wait_for(2)
        relay.application._running_calls.abort(f"{task_id}-1")
        second.release()
        assert relay.records.wait_for("task.finished", task_id, 10, nth=2)
        first.release()
    document = get(f"{relay.url}/v1/tasks/{task_id}").document
    assert (document["state"], document["attempts"][-1]["attempt"]) == ("succeeded", 2)
