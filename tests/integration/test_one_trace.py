"""One trace for each task, behind front ends that rewrite or strip headers, and days later."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from support.asking import ask, get, post
from traced_relay.testing import Downstream, ManualClock, RunningRelay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from traced_relay.tracing.span_tree import SpanNode

CALLER, CALLERS_SPAN = "c" * 32, "d" * 16
COPY = f"00-{CALLER}-{CALLERS_SPAN}-01"
FRONT_ENDS_SPAN = "f" * 16
DAY = 86_400.0
OPEN = {"open_on_loopback": True}

Headers = dict[str, str]


def keeps_the_trace_id(headers: Headers) -> Headers:
    """What Cloud Run's does: another parent, and not sampled."""
    trace_id = headers["traceparent"].split("-")[1]
    rewritten = {"traceparent": f"00-{trace_id}-{FRONT_ENDS_SPAN}-00"}
    return headers | rewritten | {"x-cloud-trace-context": f"{trace_id}/1234567890;o=0"}


def changes_the_trace_id(headers: Headers) -> Headers:
    return headers | {
        "traceparent": f"00-{'e' * 32}-{FRONT_ENDS_SPAN}-00",
        "x-cloud-trace-context": f"{'e' * 32}/12;o=0",
    }


def strips_all(headers: Headers) -> Headers:
    traced = ("traceparent", "tracestate", "x-relay-traceparent", "x-relay-tracestate")
    return {name: value for name, value in headers.items() if name not in traced}


def keeps_neither_parent_nor_copy(flag: str) -> Callable[[Headers], Headers]:
    """The same trace, another parent and another decision, and no copy to tell."""

    def rewrite(headers: Headers) -> Headers:
        trace_id = headers["traceparent"].split("-")[1]
        return strips_all(headers) | {"traceparent": f"00-{trace_id}-{FRONT_ENDS_SPAN}-{flag}"}

    return rewrite


def keeps_a_copy_of_another_decision(headers: Headers) -> Headers:
    return headers | {name: headers[name][:-2] + "00" for name in ("traceparent", "x-relay-traceparent")}


class FrontEnd:
    """Stands before the relay's application and rewrites what comes to `/dispatch`."""

    def __init__(self, app: WSGIApplication, rewrite: Callable[[Headers], Headers]) -> None:
        self._app = app
        self._rewrite = rewrite

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        if environ["PATH_INFO"] == "/dispatch":
            headers = {name[5:].replace("_", "-").lower(): v for name, v in environ.items() if name.startswith("HTTP_")}
            others = {name: value for name, value in environ.items() if not name.startswith("HTTP_")}
            new = {f"HTTP_{name.upper().replace('-', '_')}": v for name, v in self._rewrite(headers).items()}
            environ = others | new
        return self._app(environ, start_response)


@pytest.fixture
def behind() -> Iterator[Callable[[Callable[[Headers], Headers]], RunningRelay]]:
    running: list[RunningRelay] = []

    def one(rewrite: Callable[[Headers], Headers]) -> RunningRelay:
        relay = RunningRelay()
        relay.application.wsgi = FrontEnd(relay.application.wsgi, rewrite)
        running.append(relay)
        return relay.__enter__()

    yield one
    for relay in running:
        relay.__exit__()


def outline(node: SpanNode) -> Any:
    return (f"{node.span.kind} {node.span.name}", *[outline(child) for child in node.children])


def trees(relay: RunningRelay, trace_id: str) -> list[Any]:
    return [outline(node) for node in relay.spans.tree(trace_id)]


ATTEMPT = ("CONSUMER process relay", ("CLIENT POST",))
MARK = ("INTERNAL process relay started",)
DISPATCHED = ("SERVER POST /dispatch", ATTEMPT)


def under_send(*children: Any) -> list[Any]:
    return [("SERVER POST /v1/tasks", ("PRODUCER send relay", *children))]


def enqueue(relay: RunningRelay, call: dict[str, Any], **headers: str) -> dict[str, Any]:
    answer = post(f"{relay.url}/v1/tasks", call, **headers)
    assert answer.status == 202, answer.document
    receipt: dict[str, Any] = answer.document
    return receipt


def finish(relay: RunningRelay, receipt: dict[str, Any], spans: int) -> dict[str, Any]:
    """The last record, once all spans of the task have ended."""
    relay.wait_for("task.finished", receipt["task_id"])
    assert relay.spans.wait_for(spans)
    finished = relay.wait_for("attempt.finished", receipt["task_id"])
    assert finished["logging.googleapis.com/trace"] == f"projects/test-project/traces/{receipt['trace_id']}"
    return finished


@pytest.mark.parametrize("rewrite", [keeps_the_trace_id, changes_the_trace_id])
def test_the_tree_is_whole_behind_a_front_end_that_rewrites(
    behind: Callable[..., RunningRelay], downstream: Downstream, rewrite: Callable[[Headers], Headers]
) -> None:
    relay = behind(rewrite)
    receipt = enqueue(relay, {"url": downstream.url})
    assert finish(relay, receipt, 6)["trace_rewritten"] is True
    assert trees(relay, receipt["trace_id"]) == under_send(DISPATCHED, MARK)
    [server] = [span for span in relay.spans.spans(receipt["trace_id"]) if span.name == "POST /dispatch"]
    assert server.attributes["relay.trace.rewritten"] is True
    assert [span_id for _, span_id in server.links] == [FRONT_ENDS_SPAN]
    assert {span.trace_id for span in relay.spans.spans()} == {receipt["trace_id"]}


def test_the_tree_is_whole_behind_a_front_end_that_strips(
    behind: Callable[..., RunningRelay], downstream: Downstream
) -> None:
    relay = behind(strips_all)
    receipt = enqueue(relay, {"url": downstream.url})
    assert finish(relay, receipt, 6)["trace_rewritten"] is True
    assert trees(relay, receipt["trace_id"]) == under_send(ATTEMPT, MARK)
    [server] = [span for span in relay.spans.spans() if span.name == "POST /dispatch"]
    [process] = [span for span in relay.spans.spans() if span.name == "process relay"]
    assert server.attributes["relay.trace.rewritten"] is True
    assert process.links == ((server.trace_id, server.span_id),)


@pytest.mark.parametrize(
    "rewrite",
    [keeps_neither_parent_nor_copy("00"), keeps_neither_parent_nor_copy("01"), keeps_a_copy_of_another_decision],
)
def test_the_row_replaces_a_lost_or_changed_copy(
    behind: Callable[..., RunningRelay], downstream: Downstream, rewrite: Callable[[Headers], Headers]
) -> None:
    relay = behind(rewrite)
    receipt = enqueue(relay, {"url": downstream.url})
    assert finish(relay, receipt, 5)["trace_rewritten"] is True
    [send, *_] = [span for span in relay.spans.spans() if span.name == "send relay"]
    by_name = {span.name: span for span in relay.spans.spans(receipt["trace_id"])}
    process, client = by_name["process relay"], by_name["POST"]
    assert process.parent_id == by_name["process relay started"].parent_id == send.span_id
    assert client.parent_id == process.span_id
    version, *ids, flags = downstream.arrived[0].headers["traceparent"].split("-")
    assert (version, ids, int(flags, 16) & 1) == ("00", [receipt["trace_id"], client.span_id], 1)
    assert len(process.links) == 1


def test_an_unchanged_context_is_not_marked_as_rewritten(
    behind: Callable[..., RunningRelay], downstream: Downstream
) -> None:
    relay = behind(lambda headers: headers)
    receipt = enqueue(relay, {"url": downstream.url})
    assert finish(relay, receipt, 6)["trace_rewritten"] is False
    assert trees(relay, receipt["trace_id"]) == under_send(DISPATCHED, MARK)


def test_a_callers_copy_wins_over_what_its_front_end_wrote(downstream: Downstream) -> None:
    with RunningRelay() as relay:
        rewritten = {"traceparent": f"00-{CALLER}-{FRONT_ENDS_SPAN}-00", "x-relay-traceparent": COPY}
        receipt = enqueue(relay, {"url": downstream.url}, **rewritten)
        finish(relay, receipt, 6)
        [server] = [span for span in relay.spans.spans() if span.name == "POST /v1/tasks"]
    assert (receipt["trace_id"], server.parent_id) == (CALLER, CALLERS_SPAN)
    assert server.links == ((CALLER, FRONT_ENDS_SPAN),)


@pytest.mark.parametrize(
    "copy", ["garbage", f"00-{'0' * 32}-{CALLERS_SPAN}-01", COPY + "-" + "x" * 5000, f"ff-{CALLER}-{CALLERS_SPAN}-01"]
)
def test_a_malformed_copy_is_ignored(downstream: Downstream, copy: str) -> None:
    with RunningRelay() as relay:
        honest = f"00-{'a' * 32}-{'b' * 16}-01"
        headers = {"traceparent": honest, "x-relay-traceparent": copy, "x-relay-tracestate": "evil=1"}
        receipt = enqueue(relay, {"url": downstream.url}, **headers)
        finish(relay, receipt, 6)
    assert receipt["trace_id"] == "a" * 32
    assert "evil" not in json.dumps([dict(arrived.headers) for arrived in downstream.arrived])


def with_a_partner(url: str) -> dict[str, Any]:
    """What is under `/in` belongs to the trace, what is under `/out` does not."""
    return {
        "queues": [{"name": "relay"}],
        "worker": {"app_engine": "default"},
        "downstreams": [
            {"name": "in", "url": f"{url}/in", "auth": "none", "allow_private": True},
            {"name": "out", "url": f"{url}/out", "auth": "none", "allow_private": True, "trace": "none"},
        ],
    }


def test_baggage_and_trace_none_send_no_context(downstream: Downstream) -> None:
    context = {"traceparent": COPY, "tracestate": "vendor=1", "x-relay-traceparent": COPY, "baggage": "user=7"}
    with RunningRelay(rules=with_a_partner(downstream.url), **OPEN) as relay:
        for path in ("/in", "/out"):
            receipt = enqueue(relay, {"url": downstream.url + path}, **context)
            relay.wait_for("task.finished", receipt["task_id"])
    traced, untraced = (set(arrived.headers) for arrived in downstream.arrived)
    of_a_trace = {"traceparent", "tracestate", "baggage", "x-cloud-trace-context"}
    assert traced & of_a_trace == {"traceparent"}
    assert untraced & of_a_trace == set()
    assert not [name for name in traced | untraced if name.startswith("x-relay-")]


def test_a_direct_task_sends_no_context_either(downstream: Downstream) -> None:
    with RunningRelay(rules=with_a_partner(downstream.url), **OPEN) as relay:
        for count, path in enumerate(("/in", "/out"), 1):
            enqueue(relay, {"url": downstream.url + path, "route": "direct"}, traceparent=COPY, baggage="user=7")
            downstream.wait_for(count)
    traced, untraced = (arrived.headers for arrived in downstream.arrived)
    assert traced["traceparent"] == traced["x-relay-traceparent"]
    assert traced["traceparent"].split("-")[1] == CALLER
    assert not [name for name in untraced if "trace" in name or name == "baggage"]


def long_kept(url: str) -> dict[str, Any]:
    return {
        "queues": [{"name": "relay"}, {"name": "relay-callbacks", "for": "callbacks"}],
        "worker": {"app_engine": "default"},
        "downstreams": [{"name": "any", "url": f"{url}/", "auth": "none", "allow_private": True}],
        "callbacks": [{"url": f"{url}/", "allow_private": True}],
        "retention": "30d",
    }


def test_an_attempt_after_seven_days_starts_a_linked_trace() -> None:
    clock = ManualClock()
    with Downstream(503) as downstream, RunningRelay(rules=long_kept(downstream.url), clock=clock, **OPEN) as relay:
        call = {"url": downstream.url, "retry": {"max_attempts": 1}, "callback": {"url": f"{downstream.url}/told"}}
        receipt = enqueue(relay, call)
        relay.wait_for("task.finished", receipt["task_id"])
        downstream.wait_for(2)
        before = 10
        assert relay.spans.wait_for(before)
        clock.advance(7 * DAY + 60)
        assert post(f"{relay.url}/v1/tasks/{receipt['task_id']}:redrive", {}).status == 202
        ended = relay.records.wait_for("task.finished", receipt["task_id"], 10, nth=2)
        downstream.wait_for(4)
        assert relay.spans.wait_for(before + 6)
        late = relay.spans.spans()[before:]
        [send] = [span for span in relay.spans.spans() if span.name == "send relay"]
    assert ended is not None
    assert ended["logging.googleapis.com/trace"].endswith(receipt["trace_id"])
    assert receipt["trace_id"] not in {span.trace_id for span in late}
    for queue in ("relay", "relay-callbacks"):
        [process] = [span for span in late if span.name == f"process {queue}"]
        [mark] = [span for span in late if span.name == f"process {queue} started"]
        assert (process.parent_id, process.links) == (None, ((send.trace_id, send.span_id),))
        assert (mark.trace_id, mark.parent_id) == (process.trace_id, process.span_id)
    clients = {span.trace_id for span in late if span.kind == "CLIENT"}
    assert {arrived.headers["traceparent"].split("-")[1] for arrived in downstream.arrived[2:]} == clients
    assert {span.name for span in late} & {"POST /dispatch"} == set()


def test_the_documents_trace_stays_the_tasks_own(downstream: Downstream) -> None:
    with RunningRelay() as relay:
        receipt = enqueue(relay, {"url": downstream.url})
        relay.wait_for("task.finished", receipt["task_id"])
        assert get(receipt["links"]["status"]).document["trace_id"] == receipt["trace_id"]
        assert ask("GET", f"{relay.url}/health").status == 200
