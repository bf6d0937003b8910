"""Spans in Cloud Trace's form: equal to those of Google's exporter, and within the API's limits."""

from __future__ import annotations

import logging
import warnings
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from google.cloud.trace_v2.types import BatchWriteSpansRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, set_span_in_context

from traced_relay.tracing.cloud_trace_proto import Translator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.sdk.trace import ReadableSpan

REGEX = r"service\..*"
APP_ENGINE = {
    "cloud.platform": "gcp_app_engine",
    "faas.name": "default",
    "faas.version": "v7",
    "faas.instance": "i-1",
    "cloud.availability_zone": "us-central1-a",
    "cloud.region": "us-central1",
    "service.name": "traced-relay",
    "service.version": "v7",
}


def made(attributes: Mapping[str, Any], resource: Mapping[str, Any], **more: Any) -> ReadableSpan:
    kept = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource(resource), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer = provider.get_tracer("test")
    parent = tracer.start_span("parent")
    link = Link(SpanContext(7, 8, is_remote=True, trace_flags=TraceFlags(1)))
    name = more.get("name", "process relay")
    span = tracer.start_span(name, set_span_in_context(parent), SpanKind.CONSUMER, attributes, [link])
    span.set_status(more.get("status", Status(StatusCode.UNSET)))
    span.end()
    [ended] = kept.get_finished_spans()
    return ended


def by_google(span: ReadableSpan) -> Any:
    asked: list[Any] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opentelemetry.exporter.cloud_trace import CloudTraceSpanExporter

        client = SimpleNamespace(batch_write_spans=lambda request: asked.append(request))
        CloudTraceSpanExporter("p", client, REGEX).export([span])
    return asked[0]


def by_us(span: ReadableSpan) -> Any:
    request = Translator("p", REGEX).request([span])
    return BatchWriteSpansRequest.deserialize(BatchWriteSpansRequest.serialize(request))


def without_agent(request: Any) -> dict[str, Any]:
    document: dict[str, Any] = BatchWriteSpansRequest.to_dict(request)
    for span in document["spans"]:
        assert span["attributes"]["attribute_map"].pop("g.co/agent")
    return document


@pytest.mark.parametrize("resource", [{"service.name": "traced-relay", "host.name": "h"}, APP_ENGINE])
@pytest.mark.parametrize("status", [Status(), Status(StatusCode.OK), Status(StatusCode.ERROR, "http_503")])
def test_a_span_is_as_googles_exporter_makes_it(resource: dict[str, Any], status: Status) -> None:
    attributes = {
        "messaging.message.id": "4f0c",
        "relay.attempt": 2,
        "relay.trace.rewritten": True,
        "relay.share": 0.25,
        "relay.names": ("a", "b"),
        "user_agent.original": "Grüße \N{GRINNING FACE}",
    }
    span = made(attributes, resource, status=status)
    ours, googles = without_agent(by_us(span)), without_agent(by_google(span))
    assert ours["spans"][0] == googles["spans"][0] | {"links": ours["spans"][0]["links"]}
    [mine], [theirs] = (one["spans"][0]["links"]["link"] for one in (ours, googles))
    assert (mine["trace_id"], mine["span_id"]) == (theirs["trace_id"], theirs["span_id"]) == (f"{7:032x}", f"{8:016x}")
    assert ours["name"] == googles["name"] == "projects/p"


def test_a_span_is_truncated_to_cloud_traces_limits() -> None:
    attributes = {f"relay.{number}": number for number in range(40)} | {"relay.long": "é" * 300}
    span = made({"relay.long": "é" * 300} | attributes, APP_ENGINE, name="ü" * 100)
    [ours] = by_us(span).spans
    known = ours.attributes.attribute_map
    assert len(known) == 32
    assert ours.attributes.dropped_attributes_count == 41 + 3 - 32
    assert {"g.co/agent", "service.name", "service.version"} <= set(known)
    assert len(ours.display_name.value.encode()) == 128
    assert known["relay.long"].string_value.value == "é" * 128
    assert known["relay.long"].string_value.truncated_byte_count == 344


def test_a_surrogate_becomes_a_question_mark() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        span = made({"relay.odd": "a\ud800b"}, {})
    [ours] = by_us(span).spans
    assert ours.attributes.attribute_map["relay.odd"].string_value.value == "a?b"


def test_a_wide_pattern_leaves_room_for_the_spans_own() -> None:
    resource = {f"service.{number}": "x" for number in range(40)}
    span = made({f"relay.{number}": number for number in range(24)}, resource)
    known = by_us(span).spans[0].attributes.attribute_map
    assert {f"relay.{number}" for number in range(24)} <= set(known)
    assert (len(known), "g.co/agent" in known) == (32, True)


def test_an_int_of_over_64_bits_becomes_a_string() -> None:
    span = made({"relay.odd": 2**63, "relay.even": 2**63 - 1}, {})
    known = by_us(span).spans[0].attributes.attribute_map
    assert (known["relay.odd"].string_value.value, known["relay.even"].int_value) == (str(2**63), 2**63 - 1)


def test_links_beyond_the_limit_are_counted() -> None:
    span = made({}, {})
    link = Link(SpanContext(7, 8, is_remote=True, trace_flags=TraceFlags(1)))
    provider = TracerProvider(span_limits=SpanLimits(max_links=200), shutdown_on_exit=False)
    linked = provider.get_tracer("test").start_span("process relay", links=[link] * 150)
    linked.end()
    found = [by_us(one).spans[0].links for one in (span, linked)]
    assert [(len(links.link), links.dropped_links_count) for links in found] == [(1, 0), (128, 22)]
