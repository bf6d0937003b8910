"""The exporters that otel.yaml may name, and what Google's platforms know about where this is."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from opentelemetry.resourcedetector.gcp_resource_detector import GoogleCloudResourceDetector

from traced_relay.errors import InvalidSettings
from traced_relay.tracing.cloud_trace import cloud_trace
from traced_relay.tracing.exporter_options import CLOUD_TRACE, TIMEOUT, otlp_headers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.sdk.trace.export import SpanExporter

    from traced_relay.tracing.otel_yaml import Batch

_logger = logging.getLogger(__name__)
# A line or more for every batch that fails; those are counted where they come from.
logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
logging.getLogger("opentelemetry.util.re").setLevel(logging.CRITICAL)  # it quotes the headers it cannot read
logging.getLogger("grpc._common").setLevel(logging.CRITICAL)  # of an answer that is none: raised as well


def exporter_of(batch: Batch, *, project: str) -> SpanExporter:
    """What the file asks for; InvalidSettings says what is missing for it."""
    if batch.exporter == CLOUD_TRACE:
        return cloud_trace(batch.options, project=project)
    return _otlp(batch.options)


def _otlp(options: Mapping[str, Any]) -> SpanExporter:
    try:
        from opentelemetry.exporter.otlp.proto.http import Compression
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as exc:
        raise InvalidSettings("otlp_http needs: pip install 'traced-relay[otlp]'") from exc
    try:
        return OTLPSpanExporter(
            endpoint=options.get("endpoint"),
            headers=dict(otlp_headers(options)) or None,
            timeout=options.get("timeout", TIMEOUT) / 1000,
            compression=Compression(options.get("compression", "none")),
        )
    except Exception as exc:  # a session with credentials comes from a plug-in, and fails in its own ways
        raise InvalidSettings(f"otlp_http: {' '.join(str(exc).split())[:300]}") from exc


def detected() -> dict[str, Any]:
    """What the platform says of itself; nothing where it cannot be asked."""
    try:
        return dict(GoogleCloudResourceDetector().detect().attributes)
    except Exception as exc:  # noqa: BLE001  (a metadata server that is odd or away is no reason not to start)
        _logger.warning("Google's metadata server could not be asked where this is: %s", type(exc).__name__)
        return {}
