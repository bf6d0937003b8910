"""The exporters that otel.yaml may name, and what Google's platforms know about where this is."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from opentelemetry.resourcedetector.gcp_resource_detector import GoogleCloudResourceDetector

from traced_relay.errors import InvalidSettings
from traced_relay.tracing.cloud_trace import cloud_trace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.sdk.trace.export import SpanExporter

    from traced_relay.tracing.otel_file import Batch

_OTLP = ("endpoint", "headers", "headers_list", "timeout", "compression")
_logger = logging.getLogger(__name__)
# A line or more for every batch that fails; those are counted where they come from.
logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)


def exporter_of(batch: Batch, *, project: str) -> SpanExporter:
    """What the file asks for; InvalidSettings says what is wrong with it, or missing for it."""
    if batch.exporter == "relay_cloud_trace":
        return cloud_trace(batch.options, project=project)
    return _otlp(batch.options)


def _otlp(options: Mapping[str, Any]) -> SpanExporter:
    if unknown := sorted(set(options) - set(_OTLP)):
        raise InvalidSettings(f"otlp_http must not have {unknown[0]}: the relay knows {', '.join(_OTLP)} there")
    try:
        from opentelemetry.exporter.otlp.proto.http import Compression
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as exc:
        raise InvalidSettings("otlp_http needs: pip install 'traced-relay[otlp]'") from exc
    headers = dict(_pairs(options.get("headers_list") or "")) | {
        one.name: one.value or "" for one in options.get("headers", ())
    }
    try:
        return OTLPSpanExporter(
            endpoint=options.get("endpoint"),
            headers=headers or None,
            timeout=options.get("timeout", 3000) / 1000,
            compression=Compression(options.get("compression", "none")),
        )
    except Exception as exc:  # a session with credentials comes from a plug-in, and fails in its own ways
        raise InvalidSettings(f"otlp_http: {' '.join(str(exc).split())[:300]}") from exc


def _pairs(listed: str) -> list[tuple[str, str]]:
    pairs = [item.partition("=") for item in listed.split(",") if item.strip()]
    if any(not equals for _, equals, _ in pairs):
        raise InvalidSettings("otlp_http.headers_list must be name=value, with commas between")
    return [(name.strip(), value.strip()) for name, _, value in pairs]


def detected() -> dict[str, Any]:
    """What the platform says of itself; nothing where it cannot be asked."""
    try:
        return dict(GoogleCloudResourceDetector().detect().attributes)
    except Exception as exc:  # noqa: BLE001  (a metadata server that is odd or away is no reason not to start)
        _logger.warning("Google's metadata server could not be asked where this is: %s", type(exc).__name__)
        return {}
