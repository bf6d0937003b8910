"""The production server's spans, as Cloud Trace's API gets them, and what a backend that is away costs."""

from __future__ import annotations

import shutil
import signal
import time
from threading import Event
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from place import Place
from werkzeug.wrappers import Response

from asking import post
from house import ROOT
from schema import validate
from trace_service import TraceService, attributes_of
from traced_relay.testing import Arrived, Downstream

if TYPE_CHECKING:
    from pathlib import Path

    from relay_process import RelayProcess

pytestmark = pytest.mark.whole

REPORTS = "reports@p.iam.gserviceaccount.com"
QUICKLY = {"max_attempts": 3, "min_backoff": "0.1s", "max_backoff": "0.2s", "jitter": "none"}


class Traced(Place):
    """A place with otel.yaml beside its rules."""

    def __init__(self, directory: Path, url: str, endpoint: str) -> None:
        super().__init__(directory, url)
        shutil.copy(ROOT / "otel.yaml", directory)
        self._surroundings |= {"RELAY_TRACE_ENDPOINT": endpoint}

    def enqueue(self, who: dict[str, str], **call: Any) -> dict[str, Any]:
        answer = post(f"{self.url}/v1/tasks", {"retry": QUICKLY} | call, **who)
        assert answer.status == 202, answer.document
        receipt: dict[str, Any] = answer.document
        return receipt


def test_a_whole_calls_spans_arrive_with_their_parents_kinds_and_limits(tmp_path: Path) -> None:
    with TraceService() as service, Downstream(503, 503) as downstream:
        place = Traced(tmp_path, downstream.url, service.endpoint)
        with place.queue, place.relay() as relay:
            receipt = place.enqueue(place.bearer(REPORTS), url=f"{downstream.url}/reports?token=secret")
            finished = relay.wait_for("task.finished", task_id=receipt["task_id"])
            service.wait_for(*["POST /dispatch"] * 3)
            assert relay.end(signal.SIGTERM) == 0
        assert finished["attempt_count"] == 3
        tree = service.tree(receipt["trace_id"])
    [[root, [send, *below]]] = tree
    assert (root, send) == ("SERVER POST /v1/tasks", "PRODUCER send relay")
    dispatched = ("SERVER POST /dispatch", ("CONSUMER process relay", ("CLIENT POST",)))
    mark = ("INTERNAL process relay started",)
    assert sorted(below) == sorted([dispatched, mark] * 3)
    clients = [attributes_of(span) for span in service.spans if span.span_kind.name == "CLIENT"]
    resent = [client.get("http.request.resend_count") for client in clients]
    assert sorted(resent, key=lambda count: count or 0) == [None, 1, 2]
    assert_within_limits(service)
    assert "secret" not in str(service.spans)
    assert relay.said("telemetry.dropped") == []


def assert_within_limits(service: TraceService) -> None:
    for span in service.spans:
        attributes = attributes_of(span)
        assert len(attributes) <= 32
        assert len(span.display_name.value.encode()) <= 128
        for name, value in attributes.items():
            assert len(name.encode()) <= 128
            assert len(str(value).encode()) <= 256


def test_a_call_that_a_signal_cuts_leaves_its_span_too(tmp_path: Path) -> None:
    release = Event()

    def hang(_: Arrived) -> Response:
        release.wait(60)
        return Response("late")

    with TraceService() as service, Downstream(hang) as downstream:
        place = Traced(tmp_path, downstream.url, service.endpoint)
        with place.queue, place.relay() as relay:
            place.enqueue(place.bearer(REPORTS), url=f"{downstream.url}/reports")
            downstream.wait_for(1)
            assert relay.end(signal.SIGTERM) == 0
        release.set()
        service.wait_for("process relay", "POST /dispatch")
        [process] = [span for span in service.spans if span.display_name.value == "process relay"]
    assert attributes_of(process)["error.type"] == "interrupted"


def test_a_call_that_runs_is_in_its_trace_before_it_ends(tmp_path: Path) -> None:
    release = Event()

    def hang(_: Arrived) -> Response:
        release.wait(60)
        return Response("late")

    with TraceService() as service, Downstream(hang) as downstream:
        place = Traced(tmp_path, downstream.url, service.endpoint)
        with place.queue, place.relay() as relay:
            receipt = place.enqueue(place.bearer(REPORTS), url=f"{downstream.url}/reports")
            downstream.wait_for(1)
            service.wait_for("process relay started")
            assert "process relay" not in service.names()
            release.set()
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
def test_a_backend_that_is_away_costs_spans_and_nothing_else(tmp_path: Path, backend: str) -> None:
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
            assert time.monotonic() - asked < 2
        assert_dropped_are_told(relay, of=10 * 6)
        if service is not None:
            service.__exit__()


def assert_dropped_are_told(relay: RelayProcess, *, of: int) -> None:
    told = relay.said("telemetry.dropped")
    assert sum(record["dropped_spans"] for record in told) == of
    for record in told:
        validate(record)
    assert not [record for record in relay.records if "stack_trace" in record]
    assert not [record for record in relay.records if "event" not in record and record["severity"] == "ERROR"]


@pytest.mark.parametrize("broken", [True, False])
def test_a_file_that_is_broken_or_has_no_credentials_is_said_once(tmp_path: Path, *, broken: bool) -> None:
    with Downstream() as downstream:
        place = Traced(tmp_path, downstream.url, "")
        text = (tmp_path / "otel.yaml").read_text()
        (tmp_path / "otel.yaml").write_text(text.replace("ratio:", "share:") if broken else text)
        with place.queue, place.relay() as relay:
            receipt = place.enqueue(place.bearer(REPORTS), url=f"{downstream.url}/reports")
            finished = relay.wait_for("task.finished", task_id=receipt["task_id"])
            assert relay.end(signal.SIGTERM) == 0
    said = [record["message"] for record in relay.records if "no spans are exported" in record["message"]]
    assert len(said) == broken  # a relay on loopback asks nothing of Google
    assert finished["logging.googleapis.com/trace"].endswith(receipt["trace_id"])
    [arrived] = downstream.arrived
    assert arrived.headers["traceparent"].split("-")[1] == receipt["trace_id"] != "0" * 32
