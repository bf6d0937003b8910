"""OpenTelemetry's variables and commands change nothing in the relay's spans and traces."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk import environment_variables

from support.asking import post
from support.house import ROOT
from support.relay_process import SERVE, RelayProcess
from support.trace_service import TraceService, attributes_of
from support.traced_place import Traced
from traced_relay.testing import Arrived, Downstream

if TYPE_CHECKING:
    from support.place import Place

pytestmark = pytest.mark.whole

REPORTS = "reports@p.iam.gserviceaccount.com"
TRACE_ID, SPAN_ID = "c" * 32, "d" * 16
PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"
CAPTURE = "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS"
CAPTURED = [f"{CAPTURE}_{side}_{part}" for side in ("SERVER", "CLIENT") for part in ("REQUEST", "RESPONSE")]
STABLE = {"http.request.method", "http.response.status_code", "server.address"}
NAMES = ("POST /v1/tasks", "send relay", "POST /dispatch", "process relay started", "process relay", "POST")
INSTRUMENT = str(Path(sys.executable).with_name("opentelemetry-instrument"))

ENVIRONMENTS = {
    "all headers": dict.fromkeys(CAPTURED, ".*") | {"OTEL_SEMCONV_STABILITY_OPT_IN": "database"},
    "broken patterns": dict.fromkeys([*CAPTURED, "OTEL_PYTHON_EXCLUDED_URLS"], "*[")
    | {"OTEL_PROPAGATORS": "jaeger,baggage", "OTEL_SEMCONV_STABILITY_OPT_IN": "http/dup"},
    "excluded urls": {
        "OTEL_PROPAGATORS": "none",
        "OTEL_PYTHON_FLASK_EXCLUDED_URLS": "health,tasks,dispatch",
        "OTEL_PYTHON_REQUESTS_EXCLUDED_URLS": ".*",
        "OTEL_SEMCONV_STABILITY_OPT_IN": "",
    },
    "the rest": {
        "OTEL_ATTRIBUTE_COUNT_LIMIT": "many",
        "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "1",
        "OTEL_BSP_MAX_QUEUE_SIZE": "-1",
        "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "*",
        "OTEL_EXPORTER_GCP_TRACE_PROJECT_ID": "elsewhere",
        "OTEL_EXPORTER_GCP_TRACE_RESOURCE_REGEX": "*[",
        "OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS": "GET",
        "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": "-1",
        "OTEL_PROPAGATORS": "b3",
        "OTEL_PYTHON_CONTEXT": "nowhere",
        "OTEL_PYTHON_ID_GENERATOR": "nothing",
        "OTEL_PYTHON_INSTRUMENTATION_HTTP_CAPTURE_ALL_METHODS": "true",
        "OTEL_PYTHON_LOG_CORRELATION": "true",
        "OTEL_PYTHON_METER_PROVIDER": "nothing",
        "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": "true",
        "OTEL_PYTHON_TRACER_PROVIDER": "nothing",
        "OTEL_SERVICE_NAME": "another",
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "0",
        "OTEL_SPAN_EVENT_COUNT_LIMIT": "many",
        "OTEL_TRACES_EXPORTER": "console",
        "OTEL_TRACES_SAMPLER": "always_off",
    },
}


def relay_in(place: Place, *command: str) -> RelayProcess:
    return RelayProcess(
        config=place._config,
        ledger=place._ledger,
        emulator=place.queue.address,
        port=place.port,
        command=command or SERVE,
        **place._surroundings,
    )


@pytest.mark.parametrize("variables", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_no_variable_changes_a_trace(tmp_path: Path, variables: dict[str, str]) -> None:
    with TraceService() as service, Downstream() as downstream:
        place = Traced(tmp_path, downstream.url, service.endpoint)
        place.set(**variables)
        with place.queue, relay_in(place) as relay:
            who = place.bearer(REPORTS)
            given = who | {"cookie": "k=secret-1", "user-agent": "secret-2", "traceparent": PARENT}
            call = {"url": f"{downstream.url}/reports?t=secret-3", "headers": {"x-api-key": "secret-4"}}
            receipt = place.enqueue(given, **call)
            assert relay.wait_for("task.finished", task_id=receipt["task_id"])["state"] == "succeeded"
            assert post(f"{place.url}/v1/tasks?t=secret-5", {"url": "nothing"}, **given).status == 422
            service.wait_for(*NAMES)
            assert relay.end(signal.SIGTERM) == 0
        [[root, [send, *below]]] = service.tree(TRACE_ID)
        spans = {span.display_name.value: attributes_of(span) for span in service.spans}
        text = str(service.requests)
    assert (receipt["trace_id"], root, send) == (TRACE_ID, "SERVER POST /v1/tasks", "PRODUCER send relay")
    dispatched = ("SERVER POST /dispatch", ("CONSUMER process relay", ("CLIENT POST",)))
    assert sorted(below) == [("INTERNAL process relay started",), dispatched]
    assert len(service.spans) == 6
    assert "secret" not in text
    assert who["Authorization"][7:27] not in text
    for name in ("POST /v1/tasks", "POST /dispatch", "POST"):
        assert spans[name].keys() >= STABLE
        assert not [key for key in spans[name] if key in ("http.method", "http.url", "http.target", "http.status_code")]
    assert spans["POST"]["service.name"] == "traced-relay"
    [arrived] = downstream.arrived
    assert [name for name in arrived.headers if name.startswith(("x-b3", "b3", "uber-", "baggage"))] == []
    assert arrived.headers["traceparent"].split("-")[1] == TRACE_ID
    assert relay.torn == []


def resources_in(arrived: list[Arrived]) -> list[Any]:
    requests = [ExportTraceServiceRequest.FromString(request.body) for request in arrived]
    return [each for request in requests for each in request.resource_spans]


def spans_in(arrived: list[Arrived]) -> list[Any]:
    return [span for each in resources_in(arrived) for scope in each.scope_spans for span in scope.spans]


def test_spans_over_otlp_are_redacted_as_well(tmp_path: Path) -> None:
    with Downstream() as collector, Downstream() as downstream:
        place = Traced(tmp_path, downstream.url, "")
        place.set(
            **dict.fromkeys(CAPTURED, ".*"),
            OTEL_CONFIG_FILE=str(ROOT / "otel-otlp.yaml"),
            OTEL_EXPERIMENTAL_RESOURCE_DETECTORS="*",
            OTEL_EXPORTER_OTLP_HEADERS="x-tenant=a",
            OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.url}/v1/traces",
            OTEL_RESOURCE_ATTRIBUTES="team=night",
        )
        with place.queue, relay_in(place) as relay:
            given = place.bearer(REPORTS) | {"cookie": "k=secret-1", "traceparent": PARENT}
            call = {"url": f"{downstream.url}/reports?t=secret-2", "headers": {"x-api-key": "secret-3"}}
            receipt = place.enqueue(given, **call)
            relay.wait_for("task.finished", task_id=receipt["task_id"])
            batches = 1
            while len(spans_in(collector.wait_for(batches))) < len(NAMES):
                batches += 1
            assert relay.end(signal.SIGTERM) == 0
    resources, spans = resources_in(collector.arrived), spans_in(collector.arrived)
    own = {"service.name", "service.version", "service.instance.id", "team"}
    sdk = {f"telemetry.sdk.{part}" for part in ("language", "name", "version")}
    assert {attribute.key for attribute in resources[0].resource.attributes} == own | sdk
    assert ({span.trace_id.hex() for span in spans}, len(spans)) == ({TRACE_ID}, 6)
    assert "secret" not in str(resources)
    assert given["Authorization"][7:27] not in str(resources)
    assert {arrived.headers["x-tenant"] for arrived in collector.arrived} == {"a"}


QUIET = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
SITECUSTOMIZE = {
    "requests": "from opentelemetry.instrumentation.requests import RequestsInstrumentor as Instrumentor",
    "flask": "from opentelemetry.instrumentation.flask import FlaskInstrumentor as Instrumentor",
}


def environment(**variables: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    return kept | QUIET | variables


@pytest.mark.parametrize("verb", ["serve", "dev", "demo"])
def test_auto_instrumentation_is_refused_in_one_line(verb: str) -> None:
    command = [INSTRUMENT, sys.executable, "-m", "traced_relay", verb]
    ran = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == (
        "traced-relay: OpenTelemetry auto-instrumentation is active for flask, requests: the relay creates its own"
        " spans; start it without opentelemetry-instrument, or set OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=*\n"
    )


@pytest.mark.parametrize("name", SITECUSTOMIZE)
def test_an_instrumentation_from_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"{SITECUSTOMIZE[name]}\nInstrumentor().instrument()\n")
    environ = environment(PYTHONPATH=str(tmp_path))
    ran = subprocess.run(SERVE, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"traced-relay: OpenTelemetry auto-instrumentation is active for {name}: ")


def test_other_commands_may_be_instrumented() -> None:
    command = [INSTRUMENT, sys.executable, "-m", "traced_relay", "queue", "--help"]
    ran = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize(
    ("status", "words"),
    [(0, ["queue", "--help"]), (0, ["demo"]), (1, ["status", "1234", "--relay=http://127.0.0.1:1"]), (1, ["check"])],
)
def test_no_command_fails_for_a_variable(tmp_path: Path, status: int, words: list[str]) -> None:
    command = [sys.executable, "-m", "traced_relay", *words]
    environ = environment(**ENVIRONMENTS["the rest"], OTEL_PYTHON_EXCLUDED_URLS="*[")
    ran = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=90, check=False)
    assert ran.returncode == status, ran.stderr
    assert "Traceback" not in ran.stdout + ran.stderr
    assert "OTEL" not in ran.stdout + ran.stderr


@pytest.mark.parametrize("value", ["abc", "-5"])
@pytest.mark.parametrize("words", [["check"], ["demo"]])
def test_no_command_fails_for_an_invalid_sdk_variable(tmp_path: Path, words: list[str], value: str) -> None:
    known = {name for name in vars(environment_variables) if name.startswith("OTEL_")}
    unused = known - {"OTEL_CONFIG_FILE", "OTEL_SDK_DISABLED", "OTEL_RESOURCE_ATTRIBUTES"}
    command = [sys.executable, "-m", "traced_relay", *words]
    environ = environment(**dict.fromkeys(unused, value))
    ran = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=90, check=False)
    assert ran.returncode == (0 if words == ["demo"] else 1)
    assert "Traceback" not in ran.stdout + ran.stderr
    assert "OTEL" not in ran.stdout + ran.stderr


def test_another_global_provider_gets_no_span(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "from opentelemetry import trace\n"
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor\n"
        "provider = TracerProvider()\n"
        "provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))\n"
        "trace.set_tracer_provider(provider)\n"
    )
    with TraceService() as service, Downstream() as downstream:
        place = Traced(tmp_path, downstream.url, service.endpoint)
        place.set(PYTHONPATH=str(tmp_path), OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="*")
        with place.queue, relay_in(place, INSTRUMENT, *SERVE) as relay:
            receipt = place.enqueue(place.bearer(REPORTS), url=f"{downstream.url}/reports")
            relay.wait_for("task.finished", task_id=receipt["task_id"])
            service.wait_for("POST /dispatch")
            assert relay.end(signal.SIGTERM) == 0
    assert [line for line in relay.torn if "trace_id" in line] == []


@pytest.mark.parametrize("disabled", ["false", " TRUE "])
def test_context_in_several_lines_follows_the_standard(tmp_path: Path, disabled: str) -> None:
    with TraceService() as service, Downstream() as downstream:
        place = Traced(tmp_path, downstream.url, service.endpoint)
        place.set(OTEL_SDK_DISABLED=disabled)
        with place.queue, relay_in(place) as relay:
            who = place.bearer(REPORTS)["Authorization"]
            url = f"{downstream.url}/reports"
            twice = raw_enqueue(
                place, url, who, ("traceparent", PARENT), ("traceparent", PARENT), ("tracestate", "a=1")
            )
            once = raw_enqueue(
                place,
                url,
                who,
                ("Traceparent", f" cc-{TRACE_ID}-{SPAN_ID}-05-future\t"),
                *(("TraceState", text) for text in ("1a=1, b@c@d=2", "", "\te=3,1a=4 ")),
            )
            for receipt in (twice, once):
                relay.wait_for("task.finished", task_id=receipt["task_id"])
            if disabled == "false":
                service.wait_for("POST /dispatch")
            assert relay.end(signal.SIGTERM) == 0
    seen = {arrived.headers["traceparent"].split("-")[1]: arrived.headers for arrived in downstream.arrived}
    assert "tracestate" not in seen[twice["trace_id"]]
    assert (twice["trace_id"] != TRACE_ID, once["trace_id"]) == (True, TRACE_ID)
    version, _, parent, flags = seen[TRACE_ID]["traceparent"].split("-")
    assert (version, flags, parent != SPAN_ID) == ("00", "01", True)
    assert seen[TRACE_ID]["tracestate"] == "1a=1,b@c@d=2,e=3"
    assert bool(service.spans) is (disabled == "false")


def raw_enqueue(place: Place, url: str, who: str, *headers: tuple[str, str]) -> dict[str, Any]:
    """With header lines as they are given, one by one."""
    body = json.dumps({"url": url}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=10)
    connection.putrequest("POST", "/v1/tasks")
    own = (("authorization", who), ("content-type", "application/json"), ("content-length", str(len(body))))
    for name, value in (*own, *headers):
        connection.putheader(name, value)
    connection.endheaders(body)
    with connection.getresponse() as answer:
        assert answer.status == 202
        receipt: dict[str, Any] = json.loads(answer.read())
    connection.close()
    return receipt
