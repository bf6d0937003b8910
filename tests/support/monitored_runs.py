"""Real relays that meet real faults, one fault a run, for whoever looks at what they print meanwhile."""

from __future__ import annotations

import json
import logging
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import grpc
from opentelemetry.context import Context
from werkzeug.wrappers import Response

from support.asking import ask, get, post
from support.example_rows import call, row
from support.hanging import Hanging
from support.house import ROOT
from support.stage import AT_ONCE, FROM_CRON, QUEUES, Run, Stage
from support.surroundings import surroundings
from support.trace_service import TraceService
from traced_relay.config.settings import SPARE_THREADS
from traced_relay.tasks.call import RetryPolicy
from traced_relay.tasks.ids import callback_id
from traced_relay.tasks.row import Attempt
from traced_relay.tracing import provider
from traced_relay.tracing.pipeline import telemetry

if TYPE_CHECKING:
    from collections.abc import Callable

    from traced_relay.testing import Arrived

AUDIENCE, CALLER = "https://relay.example.com", "caller@p.iam.gserviceaccount.com"
WITH_CALLERS = {
    "queues": [{"name": "relay"}],
    "worker": {"app_engine": "default"},
    "audience": AUDIENCE,
    "callers": [{"email": CALLER, "queues": "*", "downstreams": "*"}],
    "downstreams": [{"name": "one", "url": "http://only.example/", "auth": "none"}],
}
FROM_QUEUE = {"X-AppEngine-QueueName": "relay", "X-AppEngine-TaskName": "by-hand"}

RUNS: dict[str, tuple[dict[str, Any], Callable[[Stage], None]]] = {}


def _run(**settings: Any) -> Callable[[Callable[[Stage], None]], Callable[[Stage], None]]:
    def keep(act: Callable[[Stage], None]) -> Callable[[Stage], None]:
        RUNS[act.__name__.removeprefix("_").replace("_", " ")] = settings, act
        return act

    return keep


def played(name: str) -> Run:
    settings, act = RUNS[name]
    with Stage(**settings) as stage:
        act(stage)
    return stage.run(name)


@_run()
def _all_is_well(stage: Stage) -> None:
    downstream, receiver = stage.downstream(), stage.downstream()
    for _ in range(3):
        stage.told(stage.finish(downstream.url, callback={"url": receiver.url}))
        stage.minutes(1)
    body = json.dumps({"url": downstream.url}).encode()
    assert stage.dispatch(body, **FROM_QUEUE) == 200  # which does not say when it was due


@_run()
def _retried_and_then_succeeded(stage: Stage) -> None:
    stage.finish(stage.downstream(503, Response(status=503, headers={"Retry-After": "0"}), 200).url)


@_run()
def _gave_up(stage: Stage) -> None:
    stage.finish(stage.downstream(404).url)
    stage.finish(stage.downstream(*[503] * 3).url, retry=AT_ONCE | {"max_attempts": 3})


@_run()
def _fails_for_half_an_hour(stage: Stage) -> None:
    ailing = stage.downstream(*[503, 200] * 30)
    for _ in range(30):
        stage.finish(ailing.url)
        stage.minutes(1)


@_run()
def _slow_for_half_an_hour(stage: Stage) -> None:
    def slowly(_: Arrived) -> Response:
        stage.minutes(6)
        return Response("at last")

    downstream = stage.downstream(*[slowly] * 5)
    for _ in range(5):
        stage.finish(downstream.url)


@_run()
def _receiver_fails_for_half_an_hour(stage: Stage) -> None:
    downstream, ailing = stage.downstream(), stage.downstream(*[503, 200] * 30)
    for _ in range(30):
        task_id = stage.finish(downstream.url, callback={"url": ailing.url})
        stage.wait_for_task("relay-callbacks", f"{callback_id(task_id, 1)}-2")
        stage.minutes(1)
        stage.told(task_id)


def _lose_a_worker(stage: Stage, url: str, *, idempotent: bool) -> str:
    now = stage.clock.now()
    begun = Attempt(
        attempt=1,
        round=1,
        task_name=f"{QUEUES}/relay/tasks/x",
        span_id="1" * 16,
        version="v0",
        instance="dead",
        started_at=now,
    )
    running = {"state": "running", "worker": "dead", "attempt": 1, "started": 1, "noted_attempt": 1}
    wanted = call(url=url, idempotent=idempotent)
    times = {"created_at": now, "schedule_time": now, "next_attempt_at": now}
    lost = row(call=wanted, rule="loopback", attempts=(begun,), **running, **times)
    assert stage.relay.application.ledger.insert(lost)
    stage.minutes(2)
    stage.relay.wait_for("task.finished", lost.task_id)
    return lost.task_id


@_run()
def _worker_lost_of_a_call_that_may_be_repeated(stage: Stage) -> None:
    _lose_a_worker(stage, stage.downstream().url, idempotent=True)


@_run()
def _worker_lost_of_a_call_that_may_not(stage: Stage) -> None:
    _lose_a_worker(stage, stage.downstream().url, idempotent=False)


@_run()
def _cancelled(stage: Stage) -> None:
    hanging = Hanging()
    downstream = stage.downstream(hanging)
    running, waiting = stage.enqueue(downstream.url), stage.enqueue(downstream.url, delay="1h")
    downstream.wait_for(1)
    for task_id in (running, waiting):
        assert ask("POST", f"{stage.relay.url}/v1/tasks/{task_id}:cancel").status == 202
    hanging.release()


@_run()
def _cancelled_and_redriven(stage: Stage) -> None:
    task_id = stage.enqueue(stage.downstream().url, delay="1h")
    for verb in ("cancel", "redrive"):
        assert ask("POST", f"{stage.relay.url}/v1/tasks/{task_id}:{verb}").status == 202
    assert stage.relay.records.wait_for("task.finished", task_id, 10, nth=2)


@_run()
def _purged(stage: Stage) -> None:
    task_id = stage.enqueue(stage.downstream().url, delay="5m")
    stage.of_queue("purge")
    stage.minutes(7)
    stage.relay.wait_for("task.finished", task_id)


@_run()
def _queue_paused_for_a_moment(stage: Stage) -> None:
    stage.of_queue("pause")
    task_id = stage.enqueue(stage.downstream().url)
    stage.minutes(3)
    stage.of_queue("resume")
    stage.relay.wait_for("task.finished", task_id)


@_run()
def _queue_paused_and_forgotten(stage: Stage) -> None:
    stage.of_queue("pause")
    stage.enqueue(stage.downstream().url)
    stage.minutes(7)


@_run()
def _forged_dispatches(stage: Stage) -> None:
    assert {stage.dispatch(b"{}") for _ in range(25)} == {403}
    assert stage.dispatch(b"{}", **FROM_QUEUE | {"X-AppEngine-QueueName": "another"}) == 403
    assert stage.dispatch(b"{}", **FROM_QUEUE | {"X-AppEngine-TaskName": ""}) == 403


@_run(rules=WITH_CALLERS)
def _bad_identities(stage: Stage) -> None:
    stranger = stage.relay.queue.token("stranger@example.com", AUDIENCE)
    elsewhere = stage.relay.queue.token(CALLER, "https://elsewhere.example.com")
    for token in ([stranger] * 25) + ([elsewhere] * 5):
        answer = get(f"{stage.relay.url}/v1/tasks", Authorization=f"Bearer {token}")
        assert answer.status in (401, 403)
    caller = stage.relay.queue.token(CALLER, AUDIENCE)
    assert get(f"{stage.relay.url}/sweep", Authorization=f"Bearer {caller}").status == 403
    assert get(f"{stage.relay.url}/v1/tasks", Host="rebound.example").status == 403


@_run(rules=WITH_CALLERS)
def _a_scanner(stage: Stage) -> None:
    for number in range(60):
        assert get(f"{stage.relay.url}/old-{number}/wp-login.php").status == 404
    assert {get(f"{stage.relay.url}{path}").status for path in ("/sweep", *["/v1/tasks/.env"] * 30)} == {401}
    assert {stage.dispatch(b"{}") for _ in range(5)} == {403}


@_run()
def _a_queue_that_is_not_ours(stage: Stage) -> None:
    assert stage.dispatch(b"{}", **FROM_QUEUE | {"X-AppEngine-QueueName": "another"}) == 403


@_run()
def _odd_requests(stage: Stage) -> None:
    assert post(f"{stage.relay.url}/v1/tasks", {"url": "ftp://x"}).status == 422
    assert post(f"{stage.relay.url}/v1/tasks", {"url": "http://x.example/?event=task.finished"}).status == 422


@_run()
def _tasks_that_cannot_be_worked(stage: Stage) -> None:
    assert stage.dispatch(b"not JSON", **FROM_QUEUE) == 200
    assert stage.dispatch(json.dumps({"task_id": "f" * 32, "attempt": 1}).encode(), **FROM_QUEUE) == 200


@_run(rules=WITH_CALLERS)
def _denied_downstream(stage: Stage) -> None:
    stage.by_hand("http://another.example/")


@_run()
def _receiver_is_gone(stage: Stage) -> None:
    stage.told(stage.finish(stage.downstream().url, callback={"url": stage.downstream(410).url}))


@_run()
def _callback_at_the_end_of_its_schedule(stage: Stage) -> None:
    now, receiver = stage.clock.now(), stage.downstream(503)
    names = {"task_id": callback_id("0" * 32, 1), "callback_of": "0" * 32, "queue": "relay-callbacks", "rule": None}
    wanted = call(url=receiver.url, retry=RetryPolicy(min_backoff="1s"))
    state = {"state": "waiting", "attempt": 9, "started": 9, "awaited": 10, "noted_attempt": 9}
    times = {"created_at": now, "schedule_time": now, "next_attempt_at": now}
    last = row(kind="callback", call=wanted, **names, **state, **times)
    assert stage.relay.application.ledger.insert(last)
    stage.minutes(2)
    stage.relay.wait_for("task.finished", last.task_id)


@_run()
def _callback_purged(stage: Stage) -> None:
    receiver = stage.downstream(*[503] * 9)
    task_id = stage.finish(stage.downstream().url, callback={"url": receiver.url})
    stage.wait_for_task("relay-callbacks", f"{callback_id(task_id, 1)}-2")
    stage.of_queue("purge", "relay-callbacks")
    stage.minutes(3)
    stage.told(task_id)


@_run()
def _receiver_away_for_an_hour(stage: Stage) -> None:
    receiver = stage.downstream(*[503] * 20)
    stage.finish(stage.downstream().url, callback={"url": receiver.url})
    stage.minutes(63)


@_run(threads=SPARE_THREADS + 1)
def _no_capacity(stage: Stage) -> None:
    hanging = Hanging()
    downstream = stage.downstream(hanging)
    task_id = stage.enqueue(downstream.url)
    downstream.wait_for(1)
    body = json.dumps({"url": downstream.url}).encode()
    assert [stage.dispatch(body, **FROM_QUEUE) for _ in range(3)] == [500] * 3
    hanging.release()
    stage.relay.wait_for("task.finished", task_id)


@_run()
def _interrupted(stage: Stage) -> None:
    hanging = Hanging()
    downstream = stage.downstream(hanging)
    stage.enqueue(downstream.url)
    downstream.wait_for(1)
    stage.relay.application.interrupt("SIGTERM")
    hanging.release()


@_run()
def _a_library_that_looks_like_us(stage: Stage) -> None:
    said = {"event": "task.finished", "kind": "call", "state": "failed", "queue": "relay"}
    for level in (logging.INFO, logging.ERROR):
        stage.relay.log.handler.handle(logging.LogRecord("some.library", level, "", 0, json.dumps(said), (), None))


@_run(is_on_disk=True)
def _ledger_is_gone(stage: Stage) -> None:
    stage.minutes(2)
    with closing(sqlite3.connect(stage.relay.settings.ledger.removeprefix("sqlite:"))) as database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            database.execute(f'DROP TABLE "{table}"')
    for _ in range(12):
        stage.clock.advance(60)
        assert ask("GET", f"{stage.relay.url}/sweep", headers=FROM_CRON).status >= 500


@_run()
def _spans_dropped(stage: Stage) -> None:
    log = stage.relay.log
    with TraceService(refuses=grpc.StatusCode.UNAVAILABLE) as service:
        with surroundings(RELAY_TRACE_ENDPOINT=service.endpoint, OTEL_TRACES_SAMPLER_ARG=None, OTEL_SDK_DISABLED=None):
            sending = telemetry(ROOT / "otel.yaml", log, project="p", is_local=True, clock=stage.clock)
        tracer = provider.tracer_of(sending.provider)
        for _ in range(12):
            tracer.start_span("send relay", Context()).end()
        sending.close()
