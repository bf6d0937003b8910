"""Receivers of callbacks that are away for days, never finish, or turn out to be somewhere they may not be."""

from __future__ import annotations

import socket
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest
from werkzeug.wrappers import Response

from support.asking import ask, get, post
from support.hanging import Hanging
from support.raw_downstream import OK, RawDownstream, says, says_and_resets, says_and_stays, says_by_turns, trickles
from support.sending import no_token
from traced_relay.downstream.sender import BODY_KEPT, Sender
from traced_relay.formats.durations import parse_time
from traced_relay.runtime.clock import SystemClock
from traced_relay.tasks.call import DAY
from traced_relay.tasks.ids import callback_id
from traced_relay.testing import Downstream, ManualClock, RunningRelay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.raw_downstream import Behaviour

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ATTEMPTS = 10


@pytest.fixture
def relay(clock: ManualClock) -> Iterator[RunningRelay]:
    with RunningRelay(clock=clock, callback_secret=SECRET) as running:
        yield running


def enqueued(relay: RunningRelay, downstream: Downstream, receiver: str) -> str:
    answer = post(f"{relay.url}/v1/tasks", {"url": downstream.url, "callback": {"url": receiver}})
    assert answer.status == 202, answer.document
    return str(answer.document["task_id"])


def callback_of(relay: RunningRelay, task_id: str) -> dict[str, Any]:
    callback: dict[str, Any] = get(f"{relay.url}/v1/tasks/{task_id}").document["callback"]
    return callback


def after_attempt(relay: RunningRelay, task_id: str, number: int) -> dict[str, Any]:
    """How the callback stands when so many attempts to deliver it are over."""
    record = relay.records.wait_for("attempt.finished", callback_id(task_id, 1), 10, nth=number)
    assert record is not None
    return callback_of(relay, task_id)


def test_an_unreachable_receiver_is_retried_for_days_and_on_request(
    relay: RunningRelay, clock: ManualClock, downstream: Downstream
) -> None:
    began = clock.now()
    with Downstream(*[503] * ATTEMPTS) as receiver:
        task_id = enqueued(relay, downstream, receiver.url)
        for number in range(1, ATTEMPTS):
            callback = after_attempt(relay, task_id, number)
            assert (callback["state"], callback["attempt_count"]) == ("pending", number)
            clock.advance(parse_time(callback["next_attempt_at"]) - clock.now() + 0.001)
        failed = after_attempt(relay, task_id, ATTEMPTS)
        relay.wait_for("task.finished", callback_id(task_id, 1))
        assert 3 * DAY < clock.now() - began < 4 * DAY
        assert (failed["state"], failed["attempt_count"], failed["reason"]) == ("failed", ATTEMPTS, "http_503")
        document = get(f"{relay.url}/v1/tasks/{task_id}").document
        assert document["state"] == "succeeded"
        assert parse_time(document["expires_at"]) == pytest.approx(clock.now() + 7 * DAY, abs=0.001)
        assert ask("POST", f"{relay.url}/v1/tasks/{task_id}:resend-callback").status == 202
        arrived = receiver.wait_for(ATTEMPTS + 1)
        assert relay.records.wait_for("task.finished", callback_id(task_id, 1), 10, nth=2)
    assert callback_of(relay, task_id)["state"] == "delivered"
    assert len({(told.headers["webhook-id"], told.body) for told in arrived}) == 1
    assert len(downstream.arrived) == 1


def test_a_hung_receiver_is_aborted_after_30_s_and_retried(
    relay: RunningRelay, clock: ManualClock, downstream: Downstream
) -> None:
    hang = Hanging()
    with Downstream(hang) as receiver:
        task_id = enqueued(relay, downstream, receiver.url)
        receiver.wait_for(1)
        clock.advance(29)
        assert callback_of(relay, task_id)["attempt_count"] == 1
        clock.advance(1)
        assert after_attempt(relay, task_id, 1)["state"] == "pending"
        clock.advance(2)
        receiver.wait_for(2)
        relay.wait_for("task.finished", callback_id(task_id, 1))
        hang.release()
    (cut,) = [r for r in relay.records.records() if r.get("reason") == "timeout" and r["event"] == "attempt.finished"]
    assert (cut["kind"], cut["latency_ms"], cut["blame"]) == ("callback", 30_000, "downstream")
    assert callback_of(relay, task_id)["state"] == "delivered"


def test_of_a_huge_answer_to_a_callback_little_is_kept(relay: RunningRelay, downstream: Downstream) -> None:
    with Downstream(Response(b"x" * 65_536 for _ in range(320))) as receiver:
        task_id = enqueued(relay, downstream, receiver.url)
        relay.wait_for("task.finished", callback_id(task_id, 1))
    stored = relay.application.ledger.get(callback_id(task_id, 1))
    assert stored is not None
    assert stored.response is not None
    assert (stored.state, len(stored.response.body), stored.response.truncated) == ("succeeded", BODY_KEPT, True)


CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
TEN = b"Content-Length: 10\r\n\r\n"


@pytest.mark.parametrize(
    "behaviour",
    [
        says_and_stays(OK, TEN, b"ok"),
        says_and_stays(OK, b"\r\n", b"ok"),
        says_and_stays(OK, CHUNKED),
        says_and_stays(OK, CHUNKED, b"5\r\nok"),
        says_and_stays(b"HTTP/1.1 204 No Content\r\n", CHUNKED),
        says_and_stays(b"HTTP/1.1 201 Created\r\n", TEN),
        says(OK, TEN, b"ok"),
        says(OK, CHUNKED, b"xyz\r\nok"),
        says(OK, b"Content-Encoding: gzip\r\n", TEN, b"not gzip!!"),
        says(OK, b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
        says(OK, b"Content-Length: 3\r\n", CHUNKED, b"0\r\n\r\n"),
        says(OK, b"Content-Length: -1\r\n\r\n"),
        says(OK, b"Transfer-Encoding: gzip\r\n\r\n"),
        says_and_resets(OK, TEN),
        trickles(OK + TEN, b"", 0.01),
        trickles(OK + b"\r\n", b"x", 0.01),
        trickles(OK + CHUNKED, b"1\r\nx\r\n", 0.01),
        trickles(OK + CHUNKED + b"0\r\n", b"X-A: b\r\n", 0.01),
        trickles(OK + CHUNKED, b"1", 0.01),
        trickles(OK + b"\r\n", b"x" * 65_536, 0),
        says(OK, b"X: y\r\n" * 101, b"\r\n"),
        says_and_stays(OK, b"X: y\r\n" * 20_000, TEN),
        says_and_stays(OK, b"X: ", b"x" * 65_536, b"\r\n\r\n"),
        says_and_stays(OK, b"X: ", b"x" * 200_000, b"\r\n", TEN, b"ok"),
        says_and_stays(OK, b"X-A\r\n", TEN, b"0123456789"),
        says_and_stays(OK, b" folded\r\n", TEN),
        says_and_stays(OK, b"X-A : b\r\n folded\r\n", TEN),
        says_and_stays(OK, b"X-A: b\rX-B: c\r\n", CHUNKED),
        says_and_stays(OK, b"X-A: \0\r\n", TEN),
        says_and_stays(OK, b"\xe9: b\r\n", CHUNKED, b"xyz\r\n"),
    ],
    ids=range(30),
)
def test_a_2xx_head_is_a_delivery_whatever_follows(
    relay: RunningRelay, downstream: Downstream, behaviour: Behaviour
) -> None:
    with RawDownstream(behaviour) as receiver:
        task_id = enqueued(relay, downstream, f"http://127.0.0.1:{receiver.port}/")
        relay.wait_for("task.finished", callback_id(task_id, 1))
        assert receiver.connections == 1
    callback = callback_of(relay, task_id)
    assert (callback["state"], callback["attempt_count"]) == ("delivered", 1)


@pytest.mark.parametrize(
    ("behaviour", "state", "reason"),
    [
        (says_and_stays(b"HTTP/1.1 410 Gone\r\n", TEN, b"no"), "failed", "http_410"),
        (says_and_stays(b"HTTP/1.1 410 Gone\r\n", b"X-A\r\n", TEN, b"no"), "failed", "http_410"),
        (says_and_resets(b"HTTP/1.1 410 Gone\r\n", TEN, b"no"), "failed", "http_410"),
        (says_and_stays(b"HTTP/1.1 503 Busy\r\nRetry-After: 3600\r\n", TEN, b"no"), "pending", "http_503"),
        (says_and_stays(b"HTTP/1.1 302 Found\r\nLocation: /\r\n", TEN), "pending", "redirect"),
        (says(OK), "pending", "incomplete_response"),
        (says(b"HTTP/1.1 204"), "pending", "incomplete_response"),
        (says(), "pending", "reset"),
    ],
    ids=range(8),
)
def test_the_head_of_an_answer_to_a_callback_decides(
    relay: RunningRelay, clock: ManualClock, downstream: Downstream, behaviour: Behaviour, state: str, reason: str
) -> None:
    with RawDownstream(behaviour) as receiver:
        task_id = enqueued(relay, downstream, f"http://127.0.0.1:{receiver.port}/")
        callback = after_attempt(relay, task_id, 1)
    assert (callback["state"], callback["reason"]) == (state, reason)
    due = callback["next_attempt_at"]
    assert (due is not None and parse_time(due) - clock.now() == 3600) == (reason == "http_503")


def test_a_head_that_trickles_past_half_a_minute_is_no_delivery(
    relay: RunningRelay, clock: ManualClock, downstream: Downstream
) -> None:
    came = Event()

    def trickle(connection: socket.socket, over: Event) -> None:
        came.set()
        trickles(OK, b"X-A: b\r\n", 0.2)(connection, over)

    with RawDownstream(trickle) as receiver:
        task_id = enqueued(relay, downstream, f"http://127.0.0.1:{receiver.port}/")
        assert came.wait(10)
        clock.advance(30)
        assert after_attempt(relay, task_id, 1)["reason"] == "timeout"


def test_connections_to_a_receiver_are_kept(relay: RunningRelay, downstream: Downstream) -> None:
    answer = OK + b"Content-Length: 2\r\n\r\nok"
    with RawDownstream(says_by_turns(answer, answer)) as receiver:
        for _ in range(2):
            task_id = enqueued(relay, downstream, f"http://127.0.0.1:{receiver.port}/")
            relay.wait_for("task.finished", callback_id(task_id, 1))
        assert receiver.connections == 1


def test_a_receiver_at_a_private_address_is_denied_without_retry(
    downstream: Downstream,
) -> None:
    def resolve(_: str, port: int, **__: Any) -> list[Any]:
        return socket.getaddrinfo("127.0.0.1", port, type=socket.SOCK_STREAM)

    rules = {
        "queues": [{"name": "relay"}, {"name": "relay-callbacks", "for": "callbacks"}],
        "worker": {"app_engine": "default"},
        "audience": "https://relay.example.com",
        "callers": [{"email": "a@example.com", "queues": "*", "downstreams": "*"}],
        "downstreams": [{"name": "any", "url": "http://127.0.0.1:*/", "auth": "none", "allow_private": True}],
        "callbacks": [{"url": "http://hooks.example:*/"}],
    }
    sender = Sender(SystemClock(), no_token, resolve=resolve)
    with RunningRelay(rules=rules, sender=sender, callback_secret=SECRET) as relay, Downstream() as receiver:
        token = {"Authorization": f"Bearer {relay.queue.token('a@example.com', 'https://relay.example.com')}"}
        url = receiver.url.replace("127.0.0.1", "hooks.example")
        wish = {"url": downstream.url, "callback": {"url": url}}
        receipt = post(f"{relay.url}/v1/tasks", wish, **token).document
        relay.wait_for("task.finished", callback_id(receipt["task_id"], 1))
        callback = get(receipt["links"]["status"], **token).document["callback"]
        denied = [r["downstream"] for r in relay.records.records() if r["event"] == "downstream.denied"]
    assert (callback["state"], callback["reason"], callback["attempt_count"]) == ("failed", "denied", 1)
    assert (receiver.arrived, denied) == ([], ["hooks.example"])
