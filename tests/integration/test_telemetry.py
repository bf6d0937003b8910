"""From otel.yaml to spans at Cloud Trace's API, and the log if that fails."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from opentelemetry.context import Context
from werkzeug.wrappers import Response

from support.house import ROOT
from support.schema import validate
from support.surroundings import surroundings
from support.trace_service import TraceService, attributes_of
from traced_relay.logs import writer
from traced_relay.runtime.clock import ManualClock, SystemClock
from traced_relay.testing import Downstream
from traced_relay.tracing import exporters, propagation, provider, spans
from traced_relay.tracing.pipeline import REPORT_EVERY, Telemetry, telemetry

if TYPE_CHECKING:
    from pathlib import Path

    from traced_relay.runtime.clock import Clock

pytestmark = pytest.mark.whole

OTEL = ROOT / "otel.yaml"
NO_CREDENTIALS = {"GOOGLE_APPLICATION_CREDENTIALS": "/nowhere.json", "NO_GCE_CHECK": "true"}
IDENTITY = writer.Identity("p", "v7", "i-1")


class Served:
    """Telemetry as `serve` sets it up, and the lines that it prints."""

    def __init__(self, path: Path | None = OTEL, clock: Clock | None = None, **facts: Any) -> None:
        self._stream = io.StringIO()
        self.log = writer.configure(writer.Log(IDENTITY, stream=self._stream, clock=clock))
        try:
            self.telemetry: Telemetry = telemetry(path, self.log, project="p", clock=clock, **facts)
        finally:
            self.log.close()
        self.tracer = provider.tracer_of(self.telemetry.provider)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._stream.getvalue().splitlines()]

    def span(self) -> str:
        span = self.tracer.start_span("send relay", Context())
        span.end()
        return spans.trace_ref(span).trace_id


def at(endpoint: str) -> dict[str, str | None]:
    return {"RELAY_TRACE_ENDPOINT": endpoint, "OTEL_TRACES_SAMPLER_ARG": None, "OTEL_SDK_DISABLED": None}


def test_spans_reach_cloud_trace_with_the_resource() -> None:
    with TraceService() as service, surroundings(**at(service.endpoint)):
        served = Served(is_local=True)
        trace_id = served.span()
        served.telemetry.close()
        [request] = service.requests
        [span] = service.spans
    assert request.name == "projects/p"
    assert span.name.startswith(f"projects/p/traces/{trace_id}/spans/")
    labels = attributes_of(span)
    assert labels["service.name"] == "traced-relay"
    assert (labels["service.version"], labels["service.instance.id"]) == ("v7", "i-1")
    assert served.lines() == []


def test_missing_credentials_are_logged_once_and_disable_spans() -> None:
    with surroundings(RELAY_TRACE_ENDPOINT=None, **NO_CREDENTIALS):
        served = Served()
    [line] = served.lines()
    assert line["severity"] == "WARNING"
    assert line["message"].startswith("no spans are exported: no Google credentials")
    validate(line)
    assert_context_goes_on(served)


def test_a_broken_file_is_logged_once_and_disables_spans(tmp_path: Path) -> None:
    (tmp_path / "otel.yaml").write_text(OTEL.read_text().replace("tracer_provider:", "tracer_provder:"))
    served = Served(tmp_path / "otel.yaml")
    [line] = served.lines()
    assert "tracer_provder" in line["message"]
    assert "stack_trace" not in line
    assert_context_goes_on(served)


@pytest.mark.parametrize("added", [b"\n# \xff\xfe", b"\nmore: " + b"[" * 1500 + b"]" * 1500])
def test_invalid_yaml_is_logged(tmp_path: Path, added: bytes) -> None:
    (tmp_path / "otel.yaml").write_bytes(OTEL.read_bytes() + added)
    [line] = Served(tmp_path / "otel.yaml").lines()
    assert line["message"].startswith("no spans are exported: ")


@pytest.mark.parametrize("content", [None, "[]"])
def test_invalid_credentials_are_logged(tmp_path: Path, content: str | None) -> None:
    named = tmp_path / "credentials.json"
    if content is None:
        named.mkdir()
    else:
        named.write_text(content)
    with surroundings(RELAY_TRACE_ENDPOINT=None, GOOGLE_APPLICATION_CREDENTIALS=str(named)):
        [line] = Served().lines()
    assert line["message"].startswith("no spans are exported: no Google credentials: ")


def test_a_missing_file_is_logged_once() -> None:
    assert [line["message"] for line in Served(None).lines()] == [
        "no spans are exported: there is no otel.yaml beside relay.yaml, and OTEL_CONFIG_FILE names none"
    ]
    assert Served(None, is_local=True).lines() == []


def test_disabled_tracing_is_not_logged(tmp_path: Path) -> None:
    (tmp_path / "otel.yaml").write_text(OTEL.read_text().replace("${OTEL_SDK_DISABLED:-false}", "true"))
    for served in (Served(tmp_path / "otel.yaml"), Served(is_disabled=True)):
        assert served.lines() == []
        assert_context_goes_on(served)


def assert_context_goes_on(served: Served) -> None:
    parent = propagation.parent_context({"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "vendor=1"})
    with served.tracer.start_as_current_span("send relay", parent) as span:
        headers = propagation.task_headers()
        found = spans.trace_ref(span)
    assert (found.trace_id, found.sampled, headers["tracestate"]) == ("a" * 32, True, "vendor=1")
    assert headers["x-relay-traceparent"] == headers["traceparent"] == f"00-{'a' * 32}-{found.span_id}-01"
    assert found.span_id != "b" * 16
    assert served.span() not in (served.span(), "0" * 32)


def test_a_local_relay_exports_nothing_to_google() -> None:
    with surroundings(RELAY_TRACE_ENDPOINT=None, **NO_CREDENTIALS):
        served = Served(is_local=True)
    served.span()
    served.telemetry.close()
    [line] = served.lines()
    assert (line["severity"], line["message"].partition(":")[0]) == ("INFO", "spans are not exported to Google")


@pytest.mark.parametrize("refuses", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED])
def test_refused_spans_are_sent_once_and_logged_once_a_minute(refuses: grpc.StatusCode) -> None:
    clock = ManualClock()
    with TraceService(refuses=refuses) as service, surroundings(**at(service.endpoint)):
        served = Served(clock=clock, is_local=True)
        processor = served.telemetry._processors[0]
        served.telemetry.start()
        for _ in range(3):
            served.span()
        assert processor.force_flush(5000)
        assert served.lines() == []
        clock.advance(REPORT_EVERY)
        served.telemetry.close()
    [record] = served.lines()
    assert (record["event"], record["severity"], record["dropped_spans"]) == ("telemetry.dropped", "WARNING", 3)
    assert "as the test wants it" in record["message"]
    validate(record)


@pytest.mark.parametrize("how", ["dead", "hung"])
def test_a_shutdown_waits_for_no_backend(how: str) -> None:
    clock = SystemClock()
    with TraceService(hangs=True) as service:
        endpoint = "127.0.0.1:1" if how == "dead" else service.endpoint
        with surroundings(**at(endpoint)):
            served = Served(is_local=True)
        for _ in range(600):
            served.span()
        assert how == "dead" or service.arrived.wait(5)
        began = clock.monotonic()
        served.telemetry.close()
        took = clock.monotonic() - began
        service.release()
    assert took < 5  # under one; how long it is, the benches tell
    assert [line["dropped_spans"] for line in served.lines()] == [600]


def test_spans_are_exported_over_otlp() -> None:
    with Downstream() as collector, surroundings(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.url}/v1/traces"):
        served = Served(ROOT / "otel-otlp.yaml", is_local=True)
        served.span()
        served.telemetry.close()
        [arrived] = collector.arrived
    assert (arrived.path, arrived.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
    assert b"send relay" in arrived.body
    assert b"traced-relay" in arrived.body
    assert served.lines() == []


def test_a_refusing_collector_is_logged() -> None:
    with Downstream(403) as collector, surroundings(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.url}/v1/traces"):
        served = Served(ROOT / "otel-otlp.yaml", is_local=True)
        served.span()
        served.telemetry.close()
    [line] = served.lines()
    assert line["dropped_spans"] == 1
    assert line["message"].endswith("the backend refused them or is unreachable")


def test_the_files_limits_apply_to_spans(tmp_path: Path) -> None:
    text = (
        OTEL.read_text()
        .replace("_count_limit: 28", "_count_limit: 3")
        .replace("_length_limit: 256", "_length_limit: 8")
    )
    (tmp_path / "otel.yaml").write_text(text)
    with TraceService() as service, surroundings(**at(service.endpoint)):
        served = Served(tmp_path / "otel.yaml", is_local=True)
        with served.tracer.start_as_current_span("send relay", Context()) as span:
            span.set_attributes({f"relay.{number}": "x" * 20 for number in range(9)})
        served.telemetry.close()
        [found] = service.spans
    own = {name: value for name, value in attributes_of(found).items() if name.startswith("relay.")}
    assert list(own.values()) == ["x" * 8] * 3


def test_the_files_batch_settings_apply(tmp_path: Path) -> None:
    text = OTEL.read_text().replace("delay: 2000", "delay: 70000").replace("_queue_size: 2048", "_queue_size: 5")
    (tmp_path / "otel.yaml").write_text(text.replace("_batch_size: 512", "_batch_size: 2"))
    clock = ManualClock()
    with TraceService() as service, surroundings(**at(service.endpoint)):
        served = Served(tmp_path / "otel.yaml", clock=clock, is_local=True)
        for _ in range(3):
            served.span()
        service.wait_until(lambda: len(service.spans) == 2)
        clock.advance(69)
        assert len(service.spans) == 2
        clock.advance(1)
        service.wait_until(lambda: len(service.spans) == 3)
        served.telemetry.close()
    assert [len(request.spans) for request in service.requests] == [2, 1]
    with TraceService(hangs=True) as service, surroundings(**at(service.endpoint)):
        served = Served(tmp_path / "otel.yaml", clock=clock, is_local=True)
        for _ in range(8):
            served.span()
        assert served.telemetry._processors[0].take_dropped().spans == 3
        served.telemetry.close()


@pytest.mark.parametrize("detects", [True, False])
def test_the_metadata_server_is_asked_on_google_only(tmp_path: Path, detects: bool) -> None:
    instance = {"zone": "projects/1/zones/us15", "region": "projects/1/regions/us-central1"}
    where = {"project": {"projectId": "p"}, "instance": instance}
    metadata = Downstream(*[Response(json.dumps(where), content_type="application/json")] * 9)
    on_gae = {"GAE_ENV": "standard", "GAE_SERVICE": "relay", "GAE_VERSION": "v7", "GAE_INSTANCE": "i-1"}
    text = OTEL.read_text().replace(r"service\..*", "cloud.*")
    (tmp_path / "otel.yaml").write_text(text)
    asked = "; ".join(
        [
            "import sys, io",
            "from pathlib import Path",
            "from opentelemetry.context import Context",
            "from traced_relay.logs import writer",
            "from traced_relay.tracing import pipeline, provider",
            "log = writer.configure(writer.Log(writer.Identity('p', 'v7', 'i-1'), stream=io.StringIO()))",
            f"made = pipeline.telemetry(Path(sys.argv[1]), log, project='p', is_local=True, on_google={detects})",
            "provider.tracer_of(made.provider).start_span('send relay', Context()).end()",
            "made.close()",
        ]
    )
    with (
        TraceService() as service,
        metadata,
        surroundings(**at(service.endpoint), **on_gae, http_proxy=metadata.url, no_proxy="127.0.0.1"),
    ):
        subprocess.run([sys.executable, "-c", asked, str(tmp_path / "otel.yaml")], check=True, timeout=30)
        [span] = service.spans
    assert bool(metadata.arrived) is detects
    labels = attributes_of(span)
    assert (labels.get("cloud.platform"), labels.get("cloud.region")) == (
        ("gcp_app_engine", "us-central1") if detects else (None, None)
    )


def test_detection_without_a_metadata_server_finds_nothing() -> None:
    with surroundings(GCE_METADATA_HOST="127.0.0.1:1"):
        assert exporters.detected_attributes() == {}
