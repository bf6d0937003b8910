from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import requests
from flask import Flask, request
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.utils import suppress_http_instrumentation
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from requests.adapters import HTTPAdapter

from support.surroundings import surroundings
from traced_relay.runtime.listener import Listener
from traced_relay.tracing import instrumentation, propagation
from traced_relay.tracing.instrumentation import ClientSpans
from traced_relay.tracing.propagation import PROPAGATOR, task_headers
from traced_relay.tracing.provider import create_provider, tracer_of
from traced_relay.tracing.span_store import SpanStore
from traced_relay.tracing.spans import processing, sending, set_verdict, trace_ref

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import TracerProvider

    from traced_relay.tracing.span_tree import FinishedSpan, SpanNode

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ORIGIN = f"00-{TRACE_ID}-{SPAN_ID}-01"
PLATFORM = f"00-{TRACE_ID}-{'1' * 16}-00"
STRANGER = f"00-{'2' * 32}-{'3' * 16}-01"


def parent(**headers: str) -> tuple[str, str, bool] | None:
    """Trace id, span id and flag of who the relay takes for the parent."""
    context = trace.get_current_span(propagation.parent_context(named(headers))).get_span_context()
    if not context.is_valid:
        return None
    found = trace_ref(trace.NonRecordingSpan(context))
    return found.trace_id, found.span_id, found.sampled


def named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@pytest.mark.parametrize(
    ("headers", "expected", "was_rewritten"),
    [
        ({}, None, False),
        ({"traceparent": ORIGIN}, (TRACE_ID, SPAN_ID, True), False),
        ({"traceparent": ORIGIN, "x_relay_traceparent": ORIGIN}, (TRACE_ID, SPAN_ID, True), False),
        ({"traceparent": PLATFORM, "x_relay_traceparent": ORIGIN}, (TRACE_ID, SPAN_ID, True), True),
        ({"traceparent": STRANGER, "x_relay_traceparent": ORIGIN}, (TRACE_ID, SPAN_ID, True), True),
        ({"traceparent": "garbage", "x_relay_traceparent": ORIGIN}, (TRACE_ID, SPAN_ID, True), True),
        ({"x_relay_traceparent": ORIGIN}, (TRACE_ID, SPAN_ID, True), True),
        ({"Traceparent": PLATFORM, "X_Relay_Traceparent": ORIGIN}, (TRACE_ID, SPAN_ID, True), True),
    ],
)
def test_the_relays_copy_decides_who_the_parent_is(
    headers: dict[str, str], expected: tuple[str, str, bool] | None, was_rewritten: bool
) -> None:
    assert parent(**headers) == expected
    assert propagation.rewritten(propagation.parent_context(named(headers))) is was_rewritten


@pytest.mark.parametrize(
    "copy",
    [
        "",
        "garbage",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"ff-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{TRACE_ID.upper()}-{SPAN_ID}-01",
        f"{ORIGIN}-{'x' * 100_000}",
        ORIGIN + "\N{COMBINING ACUTE ACCENT}",
    ],
)
def test_a_malformed_copy_changes_nothing(copy: str) -> None:
    assert parent(traceparent=PLATFORM, x_relay_traceparent=copy) == (TRACE_ID, "1" * 16, False)
    context = propagation.parent_context({"traceparent": PLATFORM, "x-relay-traceparent": copy})
    assert not propagation.rewritten(context)
    assert propagation.platform_span(context) is None


def test_the_platforms_parent_is_remembered() -> None:
    context = propagation.parent_context({"traceparent": PLATFORM, "x-relay-traceparent": ORIGIN})
    platform = propagation.platform_span(context)
    assert platform is not None
    assert trace.format_span_id(platform.span_id) == "1" * 16
    assert propagation.platform_span(propagation.parent_context({"x-relay-traceparent": ORIGIN})) is None


def test_a_tasks_headers_carry_the_context_twice() -> None:
    carried = {"traceparent": ORIGIN, "tracestate": "vendor=1,other=2"}
    headers = task_headers(propagation.parent_context(carried))
    assert headers == carried | {"x-relay-traceparent": ORIGIN, "x-relay-tracestate": "vendor=1,other=2"}
    assert task_headers(propagation.parent_context(headers)) == headers


def test_the_copys_tracestate_comes_with_it() -> None:
    headers = {"traceparent": PLATFORM, "tracestate": "front=1", "x-relay-traceparent": ORIGIN}
    assert "tracestate" not in task_headers(propagation.parent_context(headers))
    kept = task_headers(propagation.parent_context(headers | {"x-relay-tracestate": "vendor=1"}))
    assert kept["tracestate"] == "vendor=1"


@pytest.mark.parametrize("name", ["tracestate", "x-relay-tracestate"])
@pytest.mark.parametrize("state", ["vendor=1,my secret", "a=1," * 9000, ",".join(f"k{n}=1" for n in range(40))])
def test_header_values_are_not_logged(name: str, state: str, caplog: pytest.LogCaptureFixture) -> None:
    propagation.parent_context({"traceparent": ORIGIN, "x-relay-traceparent": ORIGIN, name: state})
    assert caplog.records == []


def test_the_environment_does_not_change_the_limits() -> None:
    wrong = {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "128", "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "9000"}
    store = SpanStore()
    with surroundings(**wrong, OTEL_SPAN_LINK_COUNT_LIMIT="many"):
        provider = create_provider(version="v7", instance="i-1", processors=[store])
    span = provider.get_tracer("bare").start_span("a", attributes={f"a{number}": "x" * 999 for number in range(99)})
    span.end()
    [ended] = store.spans()
    assert (len(ended.attributes), {len(str(value)) for value in ended.attributes.values()}) == (32, {256})


def test_baggage_goes_neither_in_nor_out() -> None:
    context = propagation.parent_context({"traceparent": ORIGIN, "baggage": "user=7"})
    assert set(task_headers(context)) == {"traceparent", "x-relay-traceparent"}


def test_the_relays_copy_is_written_with_tasks_and_nowhere_else() -> None:
    carrier: dict[str, str] = {}
    PROPAGATOR.inject(carrier, propagation.parent_context({"traceparent": ORIGIN, "x-relay-traceparent": ORIGIN}))
    assert (carrier, PROPAGATOR.fields) == ({"traceparent": ORIGIN}, {"traceparent", "tracestate"})


def test_without_a_span_a_task_has_no_headers() -> None:
    assert task_headers(Context()) == {}


@dataclass
class Service:
    """A relay in miniature, its spans, and a downstream that keeps the headers it was called with."""

    url: str
    spans: SpanStore
    provider: TracerProvider
    received: list[dict[str, str]] = field(default_factory=list)

    def post(self, path: str, **headers: str) -> requests.Response:
        with suppress_http_instrumentation():  # the test's own calls are nobody's span
            return requests.post(self.url + path, headers=named(headers), timeout=5)

    def trees(self) -> list[Any]:
        roots = [self.spans.tree(trace_id) for trace_id in {span.trace_id for span in self.spans.spans()}]
        return [outline(node) for tree in roots for node in tree]


def outline(node: SpanNode) -> Any:
    name = f"{node.span.kind} {node.span.name}"
    return (name, *[outline(child) for child in node.children])


def downstream_app(received: list[dict[str, str]]) -> Flask:
    app = Flask("downstream")

    @app.get("/work")
    def work() -> tuple[str, int]:
        received.append({name.lower(): value for name, value in request.headers.items()})
        return "done", int(request.args.get("answer", 200))

    return app


def relay_app(provider: TracerProvider, downstream: str) -> Flask:
    app, tracer, clients = Flask("relay"), tracer_of(provider), ClientSpans(provider)

    @app.post("/v1/tasks")
    def enqueue() -> Any:
        if "refused" in request.args:
            instrumentation.discard_current_span()
            return "no", 422
        with sending(tracer, "relay", "t1", task_name="t1-1"):
            return task_headers()

    @app.get("/v1/tasks")
    @app.get("/health")
    def untraced() -> str:
        return "fine"

    @app.post("/dispatch")
    def dispatch() -> Any:
        given = {name: request.args[name] == "True" for name in ("propagate", "full_url") if name in request.args}
        attempt = int(request.args.get("attempt", 1))
        url = request.args.get("url", f"{downstream}/work?answer=503&token=secret")
        sent = requests.Request("GET", url).prepare()
        with (
            processing(tracer, "relay", "t1", task_name="t1-1", attempt=attempt),
            clients.of(sent, attempt=attempt, **given) as responded,
        ):
            received = HTTPAdapter().send(sent, timeout=5)
            responded(received)
            return str(received.status_code)

    @app.post("/v1/tasks:batch")
    def broken() -> str:
        raise ValueError("a text with a secret")

    return app


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Service, TracerProvider]]:
    provider = create_provider(version="v7", instance="i-1")
    received: list[dict[str, str]] = []
    with Listener(downstream_app(received)) as downstream:
        app = relay_app(provider, downstream.url)
        instrumentation.instrument(app, provider)
        with Listener(app) as relay:
            yield Service(relay.url, SpanStore(), provider, received), provider


@pytest.fixture
def service(running: tuple[Service, TracerProvider]) -> Service:
    service, provider = running
    service.spans = SpanStore()
    provider.add_span_processor(service.spans)
    service.received.clear()
    return service


def test_one_trace_from_the_caller_to_the_downstream(service: Service) -> None:
    headers = service.post("/v1/tasks", traceparent=ORIGIN, tracestate="vendor=1").json()
    service.post("/dispatch", **{name.replace("-", "_"): value for name, value in headers.items()})
    attempt = ("SERVER POST /dispatch", ("CONSUMER process relay", ("CLIENT GET",)))
    assert service.trees() == [("SERVER POST /v1/tasks", ("PRODUCER send relay", attempt))]
    spans = {span.kind + span.name: span for span in service.spans.spans(TRACE_ID)}
    assert spans["SERVERPOST /v1/tasks"].parent_id == SPAN_ID
    assert spans["PRODUCERsend relay"].span_id in headers["traceparent"]
    [received] = service.received
    assert received["traceparent"].split("-")[1:3] == [TRACE_ID, spans["CLIENTGET"].span_id]
    assert received["tracestate"] == "vendor=1"
    assert not [name for name in received if name.startswith("x-relay-")]


def test_attempts_with_rewritten_parents_stay_siblings(service: Service) -> None:
    headers = service.post("/v1/tasks").json()
    for attempt in (1, 2):
        service.post(f"/dispatch?attempt={attempt}", traceparent=PLATFORM, x_relay_traceparent=headers["traceparent"])
    attempt = ("SERVER POST /dispatch", ("CONSUMER process relay", ("CLIENT GET",)))
    assert service.trees() == [("SERVER POST /v1/tasks", ("PRODUCER send relay", attempt, attempt))]
    dispatched = [span for span in service.spans.spans() if span.name == "POST /dispatch"]
    assert [span.links for span in dispatched] == [((TRACE_ID, "1" * 16),)] * 2
    assert all(span.attributes["relay.trace.rewritten"] is True for span in dispatched)


def test_a_dispatch_without_context_starts_a_trace(service: Service) -> None:
    service.post("/dispatch", traceparent="garbage", x_relay_traceparent="garbage")
    [tree] = service.trees()
    assert tree[0] == "SERVER POST /dispatch"
    assert service.spans.spans()[-1].attributes["relay.trace.rewritten"] is False


def test_a_front_ends_unsampled_flag_is_ignored(service: Service) -> None:
    service.post("/v1/tasks", traceparent=PLATFORM)
    assert [tree[0] for tree in service.trees()] == ["SERVER POST /v1/tasks"]


def test_baggage_is_not_passed_on(service: Service) -> None:
    service.post("/dispatch", baggage="user=7", traceparent=ORIGIN)
    assert "baggage" not in service.received[0]


def test_other_requests_create_no_span(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    with suppress_http_instrumentation():
        for path in ("/v1/tasks", "/health", "/nowhere"):
            requests.get(service.url + path, timeout=5)
    assert service.spans.spans() == []
    assert caplog.records == []


def test_a_refused_request_creates_no_span(service: Service) -> None:
    service.post("/v1/tasks?refused", traceparent=ORIGIN)
    assert service.spans.spans() == []


def test_discarding_outside_a_request_does_nothing() -> None:
    instrumentation.discard_current_span()
    assert not trace.get_current_span().is_recording()


def test_no_span_has_a_query_or_an_exceptions_text(service: Service) -> None:
    service.post("/dispatch?password=secret")
    service.post("/dispatch?url=http://127.0.0.1:1/closed%3Ftoken=secret")
    service.post("/v1/tasks:batch?password=secret")
    spans = service.spans.spans()
    assert "secret" not in repr(spans)
    urls = [span.attributes["url.full"] for span in spans if span.kind == "CLIENT"]
    assert [url[-5:] for url in urls if isinstance(url, str)] == ["/work", "losed"]


def test_failures_are_named_by_their_class(service: Service) -> None:
    service.post("/dispatch?url=http://127.0.0.1:1/closed")
    failed = {span.kind: (span.status, span.attributes.get("error.type")) for span in service.spans.spans()}
    assert failed == {
        "CLIENT": ("ERROR", "ConnectionError"),
        "CONSUMER": ("ERROR", "ConnectionError"),
        "SERVER": ("ERROR", "500"),
    }


def test_retries_are_counted_on_the_client_span(service: Service) -> None:
    for attempt in (1, 2, 3):
        service.post(f"/dispatch?attempt={attempt}")
    clients = [span for span in service.spans.spans() if span.kind == "CLIENT"]
    assert [span.attributes.get("http.request.resend_count") for span in clients] == [None, 1, 2]


def test_a_downstream_may_be_kept_out_of_the_trace(service: Service) -> None:
    service.post("/dispatch?propagate=False", traceparent=ORIGIN, tracestate="vendor=1")
    assert not {"traceparent", "tracestate"} & set(service.received[0])
    assert service.trees() == [("SERVER POST /dispatch", ("CONSUMER process relay", ("CLIENT GET",)))]


def test_a_url_may_be_named_by_its_origin_alone(service: Service) -> None:
    service.post("/dispatch?full_url=False")
    [url] = [span.attributes["url.full"] for span in service.spans.spans() if span.kind == "CLIENT"]
    assert isinstance(url, str)
    assert url.startswith("http://127.0.0.1:")
    assert url.count("/") == 3


@pytest.mark.parametrize(
    "asked",
    ["metadata.google.internal/computeMetadata/v1/instance", "secretmanager.googleapis.com/v1/projects/p/secrets/s"],
)
def test_credential_requests_get_neither_span_nor_trace(service: Service, asked: str) -> None:
    # Refused at once: nobody listens on port 1 of this machine.
    proxies = {"http": "http://127.0.0.1:1"}
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://{asked}", proxies=proxies, timeout=5)
    assert service.spans.spans() == []
    with pytest.raises(requests.ConnectionError):
        requests.get("http://example.com/?for=metadata.google.internal/", proxies=proxies, timeout=5)
    assert [span.name for span in service.spans.spans()] == ["GET"]


def test_attributes_stay_within_cloud_traces_limits(service: Service) -> None:
    service.post("/dispatch", traceparent=ORIGIN, user_agent="é".encode().decode("latin-1") * 400)
    for span in service.spans.spans():
        assert len(span.attributes) <= 32
        assert all(len(str(value).encode()) <= 256 for value in span.attributes.values())


def test_names_of_attributes_are_the_stable_ones(service: Service) -> None:
    service.post("/dispatch")
    server = next(span for span in service.spans.spans() if span.kind == "SERVER")
    assert {"http.request.method", "http.route", "url.path", "http.response.status_code"} <= set(server.attributes)
    assert not {"http.method", "http.url", "url.query"} & set(server.attributes)


def test_the_last_provider_gets_the_client_spans(
    running: tuple[Service, TracerProvider], service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    spans = SpanStore()
    instrumentation.instrument(Flask("second"), create_provider(version="v7", instance="i-2", processors=[spans]))
    requests.get(f"{service.url}/health", timeout=5)
    instrumentation.instrument(Flask("third"), running[1])
    requests.get(f"{service.url}/health", timeout=5)
    assert [span.kind for span in spans.spans()] == [span.kind for span in service.spans.spans()] == ["CLIENT"]
    assert caplog.records == []


class Kept(SpanProcessor):
    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def test_a_span_keeps_known_attributes_only() -> None:
    kept = Kept()
    tracer = tracer_of(create_provider(version="v7", instance="i-1", processors=[kept]))
    with tracer.start_as_current_span("inner", attributes={"url.query": "secret"}) as span:
        span.update_name("outer")
        span.add_event("redirected", {"url.full": "http://x/?token=secret"})
        span.set_attributes({"url.full": "http://x/a?token=secret#part", "url.query": "secret", "relay.sizes": [1, 2]})
        span.set_attributes({"http.request.header.cookie": ["secret"], "user_agent.original": "secret"})
        span.set_attribute("http.url", "http://x/?token=secret")
        span.set_status(trace.StatusCode.ERROR, "secret")
        span.record_exception(ValueError("secret"))
    [finished] = kept.spans
    assert (finished.name, finished.status.status_code) == ("outer", trace.StatusCode.ERROR)
    assert finished.attributes == {"url.full": "http://x/a", "relay.sizes": (1, 2)}
    assert "secret" not in finished.to_json()


@pytest.mark.parametrize("value", [None, object()])
def test_a_value_that_is_no_attribute_is_left_out(value: Any) -> None:
    kept = Kept()
    with tracer_of(create_provider(version="v7", instance="i-1", processors=[kept])).start_as_current_span("a") as span:
        span.set_attributes({"relay.reason": value, "relay.attempt": 1})
    assert kept.spans[0].attributes == {"relay.attempt": 1}


def test_attributes_of_an_ended_span_cannot_change() -> None:
    kept = Kept()
    with tracer_of(create_provider(version="v7", instance="i-1", processors=[kept])).start_as_current_span("a") as span:
        span.set_attribute("relay.attempt", 1)
    span.set_attribute("relay.attempt", 2)
    attributes: Any = kept.spans[0].attributes
    with pytest.raises(TypeError):
        attributes["relay.attempt"] = 2
    assert attributes == {"relay.attempt": 1}


def test_a_no_op_tracer_inside_a_span_does_not_change_it(store: SpanStore) -> None:
    provider = create_provider(version="v7", instance="i-1", processors=[store])
    with tracer_of(provider).start_as_current_span("outer") as outer:
        with trace.NoOpTracer().start_as_current_span("a library's") as inner:
            inner.update_name("renamed")
            inner.set_attribute("relay.reason", "of the library")
        assert inner is not outer
        outer.set_attribute("relay.verdict", "succeeded")
    [finished] = store.spans()
    assert (finished.name, finished.attributes["relay.verdict"]) == ("outer", "succeeded")
    assert "relay.reason" not in finished.attributes


CAPTURED = "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS"
ASKED = [f"{CAPTURED}_{side}_{part}" for side in ("SERVER", "CLIENT") for part in ("REQUEST", "RESPONSE")]


@pytest.mark.parametrize("pattern", [".*", "x-.*,authorization,user-agent"])
def test_captured_headers_are_in_no_span(service: Service, pattern: str) -> None:
    with surroundings(**dict.fromkeys(ASKED, pattern)):
        spans = SpanStore()
        provider = create_provider(version="v7", instance="i-2", processors=[spans])
        app = relay_app(provider, service.url)
        instrumentation.instrument(app, provider)
        headers = {"Authorization": "Bearer secret", "X-Api-Key": "secret", "User-Agent": "secret"}
        answer = app.test_client().post("/dispatch?url=http://127.0.0.1:1/", headers=headers)
    instrumentation.instrument(Flask("after"), service.provider)
    assert answer.status_code == 500
    assert [span.kind for span in spans.spans()] == ["CLIENT", "CONSUMER", "SERVER"]
    assert "secret" not in repr(spans.spans())
    assert not [name for span in spans.spans() for name in span.attributes if "header" in name or "agent" in name]


def test_an_invalid_header_pattern_does_not_fail_requests(service: Service) -> None:
    with surroundings(**dict.fromkeys(ASKED[:2], "*")):
        assert service.post("/dispatch").status_code == 200


def test_an_instrumented_app_gets_the_relays_spans_instead(service: Service) -> None:
    others, spans = SpanStore(), SpanStore()
    app = Flask("instrumented")
    app.add_url_rule("/v1/tasks", view_func=lambda: "done", methods=["POST"])
    FlaskInstrumentor.instrument_app(  # type: ignore[no-untyped-call]
        app, tracer_provider=create_provider(version="v", instance="i", processors=[others])
    )
    instrumentation.instrument(app, create_provider(version="v", instance="i", processors=[spans]))
    assert app.test_client().post("/v1/tasks?token=secret").status_code == 200
    instrumentation.instrument(Flask("after"), service.provider)
    assert ([span.name for span in spans.spans()], others.spans()) == (["POST /v1/tasks"], [])


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, "http"), ("", "http"), ("database", "http,database"), ("http/dup, database", "http, database")],
)
def test_the_stable_names_are_chosen_beside_others(service: Service, given: str | None, expected: str) -> None:
    with surroundings(OTEL_SEMCONV_STABILITY_OPT_IN=given):
        instrumentation.instrument(Flask("named"), service.provider)
        assert os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] == expected


@pytest.fixture
def store() -> SpanStore:
    return SpanStore(limit=3)


@pytest.fixture
def tracer(store: SpanStore) -> trace.Tracer:
    return tracer_of(create_provider(version="v7", instance="i-1", processors=[store]))


COMMON = {
    "messaging.system": "gcp_cloud_tasks",
    "messaging.destination.name": "relay",
    "messaging.message.id": "t1",
    "messaging.gcp_cloud_tasks.task.name": "t1-2",
}


def test_a_span_store_reports_since_when_it_is_complete(tracer: trace.Tracer, store: SpanStore) -> None:
    for number in range(1, 6):
        tracer.start_span("a", start_time=0).end(end_time=number * 1_000_000_000)
        assert store.whole_since == (f"1970-01-01T00:00:0{number - 3}.000000Z" if number > 3 else "")


def test_a_send_in_full(tracer: trace.Tracer, store: SpanStore) -> None:
    with sending(tracer, "relay", "t1", task_name="t1-2") as span:
        ref = trace_ref(span)
    [sent] = store.spans()
    assert (sent.name, sent.kind, sent.status, sent.parent_id) == ("send relay", "PRODUCER", "UNSET", None)
    assert (ref.trace_id, ref.span_id, ref.sampled) == (sent.trace_id, sent.span_id, True)
    operation = {"messaging.operation.name": "send", "messaging.operation.type": "send"}
    assert sent.attributes == COMMON | operation
    assert sent.end >= sent.start > 1_700_000_000
    assert sent.seconds == sent.end - sent.start


def process(tracer: trace.Tracer, store: SpanStore, **given: Any) -> FinishedSpan:
    context = propagation.parent_context({"traceparent": ORIGIN})
    with processing(
        tracer, "relay", "t1", task_name="t1-2", attempt=2, task_retry_count=1, queue_delay_ms=12, context=context
    ) as span:
        set_verdict(span, **given)
    return store.spans()[-1]


PROCESS = COMMON | {
    "messaging.operation.name": "process",
    "messaging.operation.type": "process",
    "messaging.gcp_cloud_tasks.task.retry_count": 1,
    "relay.attempt": 2,
    "relay.queue_delay_ms": 12,
}


def test_a_process_that_succeeded(tracer: trace.Tracer, store: SpanStore) -> None:
    span = process(tracer, store, verdict="succeeded", status_code=200)
    assert (span.name, span.kind, span.status, span.parent_id) == ("process relay", "CONSUMER", "UNSET", SPAN_ID)
    assert span.attributes == PROCESS | {"relay.verdict": "succeeded"}


def test_a_process_that_is_retried(tracer: trace.Tracer, store: SpanStore) -> None:
    span = process(
        tracer, store, verdict="retry", reason="http_503", blame="downstream", retry_delay_ms=900, status_code=503
    )
    assert span.status == "ERROR"
    assert span.attributes == PROCESS | {
        "relay.verdict": "retry",
        "relay.reason": "http_503",
        "relay.blame": "downstream",
        "relay.retry_delay_ms": 900,
        "error.type": "503",
    }


@pytest.mark.parametrize(
    ("given", "error_type"),
    [
        ({"verdict": "gave_up", "reason": "timeout"}, "timeout"),
        ({"verdict": "gave_up", "reason": "incomplete_response", "status_code": 200}, "incomplete_response"),
        ({"verdict": "cancelled"}, "cancelled"),
    ],
)
def test_an_attempt_without_response_has_its_reason(
    tracer: trace.Tracer, store: SpanStore, given: dict[str, Any], error_type: str
) -> None:
    span = process(tracer, store, **given)
    assert (span.status, span.attributes["error.type"]) == ("ERROR", error_type)


def test_an_exception_marks_the_span_and_goes_on(tracer: trace.Tracer, store: SpanStore) -> None:
    with pytest.raises(KeyError, match="secret"), sending(tracer, "relay", "t1", task_name="t1-1"):
        raise KeyError("secret")
    [span] = store.spans()
    assert (span.status, span.attributes["error.type"]) == ("ERROR", "KeyError")
    assert "secret" not in repr(span)


def test_the_store_keeps_the_latest(tracer: trace.Tracer, store: SpanStore) -> None:
    for number in range(5):
        tracer.start_span(str(number)).end()
    assert [span.name for span in store.spans()] == ["2", "3", "4"]


def test_a_span_without_its_parent_is_a_root(tracer: trace.Tracer, store: SpanStore) -> None:
    parent = trace.get_current_span(propagation.parent_context({"traceparent": ORIGIN}))
    with trace.use_span(parent), sending(tracer, "relay", "t1", task_name="t1-1"):
        tracer.start_span("child").end()
    tracer.start_span("of another trace").end()
    [root] = store.tree(TRACE_ID)
    assert (root.span.name, root.span.parent_id) == ("send relay", SPAN_ID)
    assert [child.span.name for child in root.children] == ["child"]


def test_the_ratio_uses_the_trace_id_and_follows_the_parent(store: SpanStore) -> None:
    tracer = tracer_of(create_provider(version="v7", instance="i-1", processors=[store], ratio=0))
    tracer.start_span("root").end()
    tracer.start_span("unsampled", propagation.parent_context({"traceparent": PLATFORM})).end()
    tracer.start_span("sampled", propagation.parent_context({"traceparent": ORIGIN})).end()
    assert [span.name for span in store.spans()] == ["sampled"]


def test_spans_have_the_services_name() -> None:
    others = {
        "OTEL_RESOURCE_ATTRIBUTES": "a=1",
        "OTEL_SERVICE_NAME": "other",
        "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "*",
    }
    with surroundings(**others):
        provider = create_provider(version="v7", instance="i-1")
    made = provider.resource.attributes
    assert {name.rpartition(".")[0] for name in made} == {"service", "service.instance", "telemetry.sdk"}
    assert (made["service.name"], made["service.version"], made["service.instance.id"]) == ("traced-relay", "v7", "i-1")
