"""The Python client against a whole relay, and against what is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import islice
from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_http_instrumentation
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from werkzeug.wrappers import Response

import traced_relay
from support.asking import ask, get
from support.relay_stand_in import answer, document
from traced_relay.client.client import MAX_POLL, RETRY_AFTER_503, RETRY_DELAY, Client
from traced_relay.errors import (
    FieldError,
    IdentityFailed,
    InvalidCall,
    InvalidSettings,
    NotAuthorized,
    NotEnded,
    NotFound,
    RelayError,
    Unavailable,
    UnexpectedResponse,
)
from traced_relay.runtime.clock import ManualClock
from traced_relay.testing import Downstream, RunningRelay

if TYPE_CHECKING:
    from collections.abc import Iterator
    from threading import Condition

    from traced_relay.testing import Arrived

pytestmark = pytest.mark.whole

NOBODY = "http://127.0.0.1:9"


class Unhurried(ManualClock):
    """A clock on which every wait is over at once, and counted."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, condition: Condition, seconds: float | None) -> None:
        assert condition
        assert seconds is not None
        self.waits.append(round(seconds, 3))
        self.advance(seconds)


@pytest.fixture
def client(relay: RunningRelay) -> Iterator[Client]:
    made = Client(relay.url)
    yield made
    made.close()


def test_the_package_exports_client_lazily(relay: RunningRelay) -> None:
    assert traced_relay.Client is Client
    with pytest.raises(AttributeError):
        _ = traced_relay.Server


def test_a_call_is_enqueued_and_waited_for(client: Client, downstream: Downstream) -> None:
    receipt = client.enqueue(f"{downstream.url}/build", body={"report": 7}, labels={"team": "a"}, method="PUT")
    document = client.wait(receipt["task_id"], patience=20)
    assert (document["state"], document["labels"]) == ("succeeded", {"team": "a"})
    (arrived,) = downstream.arrived
    assert (arrived.method, arrived.path, arrived.body) == ("PUT", "/build", b'{"report":7}')
    assert client.status(receipt["task_id"])["trace_id"] == receipt["trace_id"]


def test_the_callers_trace_is_sent_in_both_headers(relay: RunningRelay, client: Client, downstream: Downstream) -> None:
    span = NonRecordingSpan(SpanContext(0xABC0 << 100, 0xDEF, is_remote=False, trace_flags=TraceFlags(1)))
    with trace.use_span(span), Downstream(FrontEnd(relay)) as before:
        receipt = Client(before.url).enqueue(downstream.url)
    assert receipt["trace_id"] == f"{0xABC0 << 100:032x}"
    (arrived,) = before.arrived
    assert arrived.headers["x-relay-traceparent"] == arrived.headers["traceparent"]
    relay.wait_for("task.finished", receipt["task_id"])
    spans = relay.spans.spans(receipt["trace_id"])
    [server] = [span for span in spans if span.name == "POST /v1/tasks"]
    [asking] = [span for span in spans if span.parent_id == f"{0xDEF:016x}"]
    assert (server.parent_id, server.links, server.attributes["relay.trace.rewritten"]) == (asking.span_id, (), False)


def test_an_uninstrumented_caller_is_the_parent(downstream: Downstream, relay: RunningRelay) -> None:
    span = NonRecordingSpan(SpanContext(0xABC0 << 100, 0xDEF, is_remote=False, trace_flags=TraceFlags(1)))
    with trace.use_span(span), suppress_http_instrumentation(), Downstream(FrontEnd(relay)) as before:
        Client(before.url).enqueue(downstream.url)
    (arrived,) = before.arrived
    assert arrived.headers["x-relay-traceparent"] == f"00-{0xABC0 << 100:032x}-{0xDEF:016x}-01"


class FrontEnd:
    """What a front end does: hand the request on, and sometimes lose the answer."""

    def __init__(self, relay: RunningRelay, *, instead: Response | None = None) -> None:
        self._relay = relay
        self._instead = instead

    def __call__(self, arrived: Arrived) -> Response:
        headers = {name: value for name, value in arrived.headers.items() if name != "host"}
        answer = ask(arrived.method, self._relay.url + arrived.path, body=arrived.body, headers=headers)
        if self._instead is not None:
            return self._instead
        return Response(json.dumps(answer.document), answer.status, content_type="application/json")


LOST = Response("upstream went away", 503)
TOO_MANY = Response(json.dumps({"status": 429, "detail": "too many"}), 429, content_type="application/problem+json")


@pytest.mark.parametrize("instead", [LOST, TOO_MANY], ids=["503", "429"])
def test_a_retry_after_a_lost_response_makes_no_second_task(
    relay: RunningRelay, downstream: Downstream, instead: Response
) -> None:
    clock = Unhurried()
    lost, given = FrontEnd(relay, instead=instead), FrontEnd(relay)
    with Downstream(lost, lost, given) as before:
        receipt = Client(before.url, clock=clock).enqueue(
            downstream.url, labels={"lost": f"answer {instead.status_code}"}
        )
    keys = {arrived.headers["idempotency-key"] for arrived in before.arrived}
    assert (len(before.arrived), len(keys), clock.waits) == (3, 1, [RETRY_AFTER_503] * 2)
    listed = get(f"{relay.url}/v1/tasks?label.lost=answer%20{instead.status_code}").document["tasks"]
    assert [task["task_id"] for task in listed] == [receipt["task_id"]]


def test_an_unreachable_relay_is_tried_3_times_and_actions_once() -> None:
    clock = Unhurried()
    with pytest.raises(Unavailable, match=f"the relay at {NOBODY} cannot be reached"):
        Client(NOBODY, clock=clock).enqueue("http://x.example")
    assert clock.waits == [RETRY_DELAY] * 2
    with pytest.raises(Unavailable):
        Client(NOBODY, clock=clock).redrive("0" * 32)
    assert len(clock.waits) == 2


def test_a_batch_returns_a_receipt_or_error_for_each_call(client: Client, downstream: Downstream) -> None:
    good, bad = client.enqueue_many([{"url": downstream.url}, {"url": "ftp://x", "delay": "soon"}])
    assert isinstance(good, dict)
    assert good["state"] == "queued"
    assert isinstance(bad, InvalidCall)
    assert [error.field for error in bad.errors] == ["url", "delay"]


def test_a_list_spans_its_pages(client: Client, downstream: Downstream) -> None:
    made = [client.enqueue(downstream.url, labels={"page": "turned"})["task_id"] for _ in range(5)]
    listed = [task["task_id"] for task in client.list(label=("page", "turned"), page_size=2)]
    assert sorted(listed) == sorted(made)
    assert len(list(islice(client.list(page_size=1), 3))) == 3
    assert list(client.list(label=("page", "turned"), state="failed")) == []


def test_actions_return_the_changed_document(client: Client) -> None:
    with Downstream(404) as receiver, Downstream(404) as failing:
        task_id = client.enqueue(failing.url, callback={"url": receiver.url})["task_id"]
        assert client.wait(task_id, patience=20)["reason"] == "http_404"
        assert client.redrive(task_id)["round"] == 2
        assert client.wait(task_id, patience=20)["state"] == "succeeded"
        with pytest.raises(InvalidCall) as refused:
            client.cancel(task_id)
        assert refused.value.status == 409
        waiting = client.enqueue(failing.url, delay="1h")["task_id"]
        assert client.cancel(waiting)["state"] == "cancelled"
        with pytest.raises(InvalidCall):
            client.resend_callback(waiting)


def test_a_broken_rule_names_its_field(client: Client) -> None:
    with pytest.raises(InvalidCall) as refused:
        client.enqueue("http://x.example", retry={"max_attempts": 0})
    assert refused.value.status == 422
    assert [error.field for error in refused.value.errors] == ["retry.max_attempts"]
    assert all(isinstance(error, FieldError) for error in refused.value.errors)


def test_text_that_is_not_unicode_is_an_invalid_call(client: Client) -> None:
    for ask_so in (
        lambda: client.enqueue("http://x.example", body="\ud800"),
        lambda: client.enqueue("http://x.example", idempotency_key="\u4e00"),
        lambda: list(client.list(queue="\ud800")),
    ):
        with pytest.raises(InvalidCall, match="valid Unicode"):
            ask_so()
    with pytest.raises(InvalidCall, match="task_id must be"):
        client.status("\ud800")


@pytest.mark.parametrize("key", ["a\nb", " a"])
def test_a_key_that_headers_forbid_is_an_invalid_call(client: Client, key: str) -> None:
    with pytest.raises(InvalidCall, match="the key or token contains a line break or a leading space"):
        client.enqueue("http://x.example/", idempotency_key=key)


@pytest.mark.parametrize("key", ["a,b", 'a,"b\\', "plain", '"a,b"'])
def test_a_key_may_have_a_comma(client: Client, key: str) -> None:
    first, again = (client.enqueue("http://127.0.0.1:9/", delay="1h", idempotency_key=key) for _ in range(2))
    assert first == again


def test_a_direct_call_has_a_receipt_without_status(client: Client) -> None:
    wish = {"url": "http://127.0.0.1:9/", "route": "direct", "delay": "1h"}
    (many,) = client.enqueue_many([wish])
    assert not isinstance(many, RelayError)
    one = client.enqueue("http://127.0.0.1:9/", route="direct", delay="1h")
    assert (one["links"]["status"], many["links"]["status"]) == (None, None)


def test_a_loopback_relay_is_reached_without_a_proxy() -> None:
    answer = json.dumps(document(task_id="x", state="queued"))
    asks = "from traced_relay import Client; import sys; print(Client(sys.argv[1]).status('a')['state'])"
    with Downstream(Response(answer, content_type="application/json")) as relay, Downstream() as proxy:
        ran = subprocess.run(
            [sys.executable, "-c", asks, relay.url],
            env={**os.environ, "HTTP_PROXY": proxy.url, "http_proxy": proxy.url, "no_proxy": "", "NO_PROXY": ""},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
    assert (ran.stdout, proxy.arrived) == ("queued\n", [])


@pytest.mark.parametrize("task_id", ["0" * 32, "abcd"])
def test_a_task_that_is_not_there_is_named(client: Client, task_id: str) -> None:
    with pytest.raises(NotFound):
        client.status(task_id)


def test_polling_slows_down_and_ends_after_patience() -> None:
    clock = Unhurried()
    pending = answer(document(task_id="a", state="queued"))
    with Downstream(*[pending] * 50) as relay, pytest.raises(NotEnded, match="task a is queued after 60 s"):
        Client(relay.url, clock=clock).wait("a", patience=60)
    *waits, last = clock.waits
    assert waits == sorted(waits)
    assert (waits[0], waits[-1], last <= MAX_POLL) == (0.2, MAX_POLL, True)
    assert sum(clock.waits) == pytest.approx(60, abs=0.01)


@pytest.mark.parametrize(
    "strange",
    [
        Response("<h1>hello</h1>"),
        Response("[]"),
        Response('{"ok": true}'),
        Response(status=302, headers={"Location": "/elsewhere"}),
        Response('{"status": 500, "detail": "a fault of the relay"}', 500),
        Response('{"error": "not found"}', 404),
    ],
    ids=["html", "list", "other", "redirect", "fault", "unknown"],
)
def test_a_foreign_response_is_an_unexpected_answer(strange: Response) -> None:
    with Downstream(strange) as stranger, pytest.raises(UnexpectedResponse, match=r"answered \d+, not as a relay does"):
        Client(stranger.url).status("a")
    assert len(stranger.arrived) == 1


@pytest.mark.parametrize(
    "url",
    ["relay.example.com", "ftp://x", "https://", "https://x/v1?y", "https://u:p@x", "http://[", "http://x.example"],
)
def test_an_invalid_or_insecure_relay_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidSettings, match="the relay's URL must"):
        Client(url)


def test_a_token_is_sent_only_if_one_is_given() -> None:
    denied = Response('{"status": 403, "detail": "you are not a caller"}', 403)
    with Downstream(denied, denied) as relay:
        for token in (None, lambda: "a.b.c"):
            with pytest.raises(NotAuthorized, match="you are not a caller") as refused:
                Client(relay.url, id_token=token).status("a")
            assert refused.value.status == 403
    assert [arrived.headers.get("authorization") for arrived in relay.arrived] == [None, "Bearer a.b.c"]


def test_a_failed_token_sends_no_request() -> None:
    def none() -> str:
        raise IdentityFailed("no ID token for x")

    with Downstream() as relay, pytest.raises(IdentityFailed):
        Client(relay.url, id_token=none).status("a")
    assert relay.arrived == []
