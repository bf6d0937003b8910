"""What callers, records and attempts say of an identity that is not good enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support.asking import get, post
from support.schema import validate
from support.surroundings import surroundings
from traced_relay.tasks.ids import callback_id
from traced_relay.testing import Downstream, RunningRelay
from traced_relay.timeline import build

if TYPE_CHECKING:
    from collections.abc import Iterator

AUDIENCE, CALLER = "https://relay.example.com", "caller@p.iam.gserviceaccount.com"
SECRET = "projects/p/secrets/callbacks"
RULES: dict[str, Any] = {
    "queues": [{"name": "relay"}, {"name": "relay-callbacks", "for": "callbacks"}],
    "worker": {"app_engine": "default"},
    "audience": AUDIENCE,
    "callers": [{"email": CALLER, "queues": "*", "downstreams": "*"}],
    "downstreams": [
        {"name": "open", "url": "http://127.0.0.1:*/", "auth": "none", "allow_private": True},
        {"name": "closed", "url": "https://localhost:*/", "auth": "id_token", "allow_private": True},
    ],
    "callbacks": [{"url": "http://127.0.0.1:*/", "allow_private": True}],
}


@pytest.fixture
def relay() -> Iterator[RunningRelay]:
    """A relay without Google credentials, whose callbacks are signed with a secret in Secret Manager."""
    absent = surroundings(GOOGLE_APPLICATION_CREDENTIALS="/nowhere.json")
    with absent, RunningRelay(rules=RULES, callback_secret=SECRET) as running:
        yield running


def bearer(relay: RunningRelay, email: str = CALLER, audience: str = AUDIENCE) -> dict[str, str]:
    return {"Authorization": f"Bearer {relay.queue.token(email, audience)}"}


def test_a_refused_caller_is_told_why(relay: RunningRelay) -> None:
    url = f"{relay.url}/v1/tasks"
    elsewhere = "the token is for another audience; this relay requires https://relay.example.com"
    for headers, status, reason, detail in (
        (bearer(relay, audience="https://else.example.com"), 401, "wrong_audience", elsewhere),
        (bearer(relay, "else@p"), 403, "unknown_caller", "else@p is not among the callers in relay.yaml"),
        ({}, 401, "no_token", "an ID token is required"),
    ):
        answer = post(url, {"url": "http://127.0.0.1:1/"}, **headers)
        assert (answer.status, answer.document["detail"]) == (status, detail)
        error = {401: "invalid_token", 403: "insufficient_scope"}[status]
        challenge = f'Bearer error="{error}", error_description="{detail}"' if headers else "Bearer"
        assert answer.headers["www-authenticate"] == challenge
        record = next(r for r in reversed(relay.records.records()) if r["event"] == "enqueue.rejected")
        validate(record)
        assert (record["reason"], record["detail"]) == (reason, f"POST /v1/tasks: {detail}")
        assert record.get("principal") == ("else@p" if reason == "unknown_caller" else None)


def test_an_attempt_without_an_id_token_says_why(relay: RunningRelay) -> None:
    call = {"url": "https://localhost:9/", "retry": {"max_attempts": 1}}
    receipt = post(f"{relay.url}/v1/tasks", call, **bearer(relay)).document
    record = relay.wait_for("attempt.finished", receipt["task_id"])
    validate(record)
    why = "the file in GOOGLE_APPLICATION_CREDENTIALS does not exist"
    detail = f"no ID token for https://localhost:9: {why}"
    assert (record["reason"], record["detail"]) == ("auth_unavailable", detail)
    assert record["message"].endswith(f": gave_up, auth_unavailable: {detail}")
    relay.wait_for("task.finished", receipt["task_id"])
    document = get(receipt["links"]["status"], **bearer(relay)).document
    bars = build.build(document, relay.records.records(receipt["task_id"])).bars
    assert [bar.note for bar in bars if bar.kind == "attempt"] == [
        f"auth_unavailable gave_up, platform: {detail}",
    ]


def test_a_callback_without_its_secret_says_why(relay: RunningRelay) -> None:
    with Downstream() as downstream:
        call = {"url": downstream.url, "callback": {"url": downstream.url}}
        receipt = post(f"{relay.url}/v1/tasks", call, **bearer(relay)).document
        record = relay.wait_for("attempt.finished", callback_id(receipt["task_id"], 1))
        assert len(downstream.arrived) == 1
    validate(record)
    why = "the file in GOOGLE_APPLICATION_CREDENTIALS does not exist"
    assert (record["reason"], record["kind"]) == ("auth_unavailable", "callback")
    assert record["detail"] == f"no signing secret: {SECRET} needs Google credentials, {why}"
