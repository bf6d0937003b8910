"""The production server's spans at Cloud Trace's API, and the cost of an unreachable backend."""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from support.hanging import Hanging
from support.schema import validate
from support.trace_service import TraceService, attributes_of, finished
from support.traced_place import REPORTS, Traced
from traced_relay.testing import Downstream

if TYPE_CHECKING:
    from pathlib import Path

    from support.relay_process import RelayProcess

pytestmark = pytest.mark.whole


DISPATCHED = ("SERVER POST /dispatch", ("CONSUMER process relay", ("CLIENT POST",)))
MARK = ("INTERNAL process relay started",)
CALLBACK = ("SERVER POST /dispatch", ("CONSUMER process relay-callbacks", ("CLIENT POST",)))


def test_a_calls_spans_have_their_parents_kinds_and_limits(tmp_path: Path) -> None:
    with TraceService() as service, Downstream(503, 503) as downstream, Downstream() as receiver:
        place = Traced(tmp_path, downstream.url, service.endpoint)
        with place.queue, place.with_callbacks(receiver.url).relay() as relay:
            told = {"url": f"{receiver.url}/told"}
            url = f"{downstream.url}/reports?token=secret"
            receipt = place.enqueue(place.bearer(REPORTS), url=url, callback=told)
            finished = relay.wait_for("task.finished", task_id=receipt["task_id"])
            relay.wait_for("task.finished", callback_of=receipt["task_id"])
            service.wait_for(*["POST /dispatch"] * 4)
            assert relay.end(signal.SIGTERM) == 0
        assert finished["attempt_count"] == 3
        tree = service.tree(receipt["trace_id"])
    sys.stdout.write(shown(tree))  # shown with -s
    [[root, [send, *below]]] = tree
    assert (root, send) == ("SERVER POST /v1/tasks", "PRODUCER send relay")
    callback_mark = ("INTERNAL process relay-callbacks started",)
    assert sorted(below) == sorted([*[DISPATCHED, MARK] * 3, CALLBACK, callback_mark])
    clients = [attributes_of(span) for span in service.spans if span.span_kind.name == "CLIENT"]
    resent = [client.get("http.request.resend_count") for client in clients]
    assert sorted(resent, key=lambda count: count or 0) == [None, None, 1, 2]
    assert_within_limits(service)
    assert "secret" not in str(service.spans)
    assert relay.said("telemetry.dropped") == []


def shown(tree: list[Any], depth: int = 0) -> str:
    """A line a span."""
    lines = ["  " * depth + name + "\n" + shown(children, depth + 1) for name, *children in tree]
    return "".join(lines)


@pytest.mark.parametrize(("before", "after", "spans"), [("1.0", "0.0", 2), ("0.0", "1.0", 0)])
def test_a_restart_with_another_ratio_keeps_the_decision(tmp_path: Path, before: str, after: str, spans: int) -> None:
    with TraceService() as service, Downstream(503, 200) as downstream:
        place = Traced(tmp_path, downstream.url, service.endpoint)
        place.set(OTEL_TRACES_SAMPLER_ARG=before)
        retry = {"max_attempts": 2, "min_backoff": "1s", "jitter": "none"}
        with place.queue:
            who = place.bearer(REPORTS)
            with place.relay() as first:
                receipt = place.enqueue(who, url=f"{downstream.url}/reports", retry=retry)
                first.wait_for("attempt.finished", task_id=receipt["task_id"])
                assert first.end(signal.SIGTERM) == 0
            place.set(OTEL_TRACES_SAMPLER_ARG=after)
            with place.relay() as second:
                assert second.wait_for("task.finished", task_id=receipt["task_id"])["state"] == "succeeded"
                later = place.enqueue(who, url=f"{downstream.url}/reports")
                ended = second.wait_for("task.finished", task_id=later["task_id"])
                assert second.end(signal.SIGTERM) == 0
        found = [finished(span) for span in service.spans]
    sampled = ended["logging.googleapis.com/trace_sampled"]
    assert sampled is (after == "1.0")
    assert [s.trace_id for s in found if s.name == "process relay"].count(receipt["trace_id"]) == spans
    assert any(s.trace_id == later["trace_id"] for s in found) is sampled


def assert_within_limits(service: TraceService) -> None:
    for span in service.spans:
        attributes = attributes_of(span)
        assert len(attributes) <= 32
        assert len(span.display_name.value.encode()) <= 128
        for name, value in attributes.items():
            assert len(name.encode()) <= 128
            assert len(str(value).encode()) <= 256


def test_a_long_tracestate_does_not_block_its_task(tmp_path: Path) -> None:
    members = ",".join(f"k{number}={'v' * 251}" for number in range(32))[:8175]
    with TraceService() as service, Downstream() as downstream:
        place = Traced(tmp_path, downstream.url, service.endpoint)
        with place.queue, place.relay() as relay:
            context = {"traceparent": f"00-{'c' * 32}-{'d' * 16}-01", "tracestate": members}
            receipt = place.enqueue(place.bearer(REPORTS) | context, url=f"{downstream.url}/reports")
            assert relay.wait_for("task.finished", task_id=receipt["task_id"])["state"] == "succeeded"
    assert receipt["trace_id"] == "c" * 32


def test_a_call_aborted_by_a_signal_exports_its_span(tmp_path: Path) -> None:
    hang = Hanging(60)
    with TraceService() as service, Downstream(hang) as downstream:
        place = Traced(tmp_path, downstream.url, service.endpoint)
        with place.queue, place.relay() as relay:
            place.enqueue(place.bearer(REPORTS), url=f"{downstream.url}/reports")
            downstream.wait_for(1)
            assert relay.end(signal.SIGTERM) == 0
        hang.release()
        service.wait_for("process relay", "POST /dispatch")
        [process] = [span for span in service.spans if span.display_name.value == "process relay"]
    assert attributes_of(process)["error.type"] == "interrupted"


def test_a_running_call_is_in_its_trace(tmp_path: Path) -> None:
    hang = Hanging(60)
    with TraceService() as service, Downstream(hang) as downstream:
        place = Traced(tmp_path, downstream.url, service.endpoint)
        with place.queue, place.relay() as relay:
            receipt = place.enqueue(place.bearer(REPORTS), url=f"{downstream.url}/reports")
            downstream.wait_for(1)
            service.wait_for("process relay started")
            assert "process relay" not in service.names()
            hang.release()
            relay.wait_for("task.finished", task_id=receipt["task_id"])
            service.wait_for("process relay")
        [process] = [span for span in service.spans if span.display_name.value == "process relay"]
        [mark] = [span for span in service.spans if span.display_name.value == "process relay started"]
    assert attributes_of(mark)["relay.pending_span_id"] == process.span_id


BACKENDS = {
    "dead": lambda: None,
    "hung": lambda: TraceService(hangs=True),
    "unavailable": lambda: TraceService(refuses=grpc.StatusCode.UNAVAILABLE),
    "denied": lambda: TraceService(refuses=grpc.StatusCode.PERMISSION_DENIED),
}


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_unreachable_backend_costs_only_spans(tmp_path: Path, backend: str) -> None:
    service = BACKENDS[backend]()
    with Downstream() as downstream:
        place = Traced(tmp_path, downstream.url, "127.0.0.1:1" if service is None else service.endpoint)
        if service is not None:
            service.__enter__()
        with place.queue, place.relay() as relay:
            who = place.bearer(REPORTS)
            receipts = [place.enqueue(who, url=f"{downstream.url}/reports") for _ in range(10)]
            for receipt in receipts:
                assert relay.wait_for("task.finished", task_id=receipt["task_id"])["state"] == "succeeded"
            asked = time.monotonic()
            assert relay.end(signal.SIGTERM) == 0
            assert time.monotonic() - asked < 8  # under two; how long it is, the benches tell
        assert_dropped_are_logged(relay, of=10 * 6)
        if service is not None:
            service.__exit__()


def assert_dropped_are_logged(relay: RelayProcess, *, of: int) -> None:
    records = relay.said("telemetry.dropped")
    assert sum(record["dropped_spans"] for record in records) == of
    for record in records:
        validate(record)
    assert not [record for record in relay.records if "stack_trace" in record]
    assert not [record for record in relay.records if "event" not in record and record["severity"] == "ERROR"]


@pytest.mark.parametrize("broken", [True, False])
def test_a_broken_file_is_logged_once(tmp_path: Path, *, broken: bool) -> None:
    with Downstream() as downstream:
        place = Traced(tmp_path, downstream.url, "")
        text = (tmp_path / "otel.yaml").read_text()
        (tmp_path / "otel.yaml").write_text(text.replace("ratio:", "share:") if broken else text)
        with place.queue, place.relay() as relay:
            receipt = place.enqueue(place.bearer(REPORTS), url=f"{downstream.url}/reports")
            finished = relay.wait_for("task.finished", task_id=receipt["task_id"])
            assert relay.end(signal.SIGTERM) == 0
    messages = [record["message"] for record in relay.records if "no spans are exported" in record["message"]]
    assert len(messages) == broken  # a relay on loopback asks nothing of Google
    assert finished["logging.googleapis.com/trace"].endswith(receipt["trace_id"])
    [arrived] = downstream.arrived
    assert arrived.headers["traceparent"].split("-")[1] == receipt["trace_id"] != "0" * 32
