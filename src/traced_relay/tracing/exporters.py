"""
The exporters that otel.yaml can select, and the attributes that Google's platforms give the resource.

Each loads its libraries when it is selected: together they take 20 ms and 8 MB.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from traced_relay.errors import InvalidSettings
from traced_relay.tracing.otel_yaml import OtlpOptions

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from traced_relay.tracing.otel_yaml import Exporter

_logger = logging.getLogger(__name__)
# These log every batch that fails; `telemetry.dropped` counts them.
logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
logging.getLogger("opentelemetry.util.re").setLevel(logging.CRITICAL)  # it logs the headers it cannot parse
logging.getLogger("grpc._common").setLevel(logging.CRITICAL)  # it logs a malformed response, and raises it as well


def create_exporter(exporter: Exporter, *, project: str) -> SpanExporter:
    """The exporter that otel.yaml selects; InvalidSettings names the credentials or the package that is missing."""
    if exporter.relay_cloud_trace is not None:
        from traced_relay.tracing import cloud_trace

        return cloud_trace.create(exporter.relay_cloud_trace, project)
    return _otlp(exporter.otlp_http or OtlpOptions())


def _otlp(options: OtlpOptions) -> SpanExporter:
    try:
        from opentelemetry.exporter.otlp.proto.http import Compression
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as exc:
        raise InvalidSettings("otlp_http needs: pip install 'traced-relay[otlp]'") from exc
    try:
        return OTLPSpanExporter(
            endpoint=options.endpoint,
            headers=options.all_headers or None,
            timeout=options.timeout / 1000,
            compression=Compression(options.compression),
        )
    except Exception as exc:  # a plug-in supplies the credentials, and may raise anything
        raise InvalidSettings(f"otlp_http: {' '.join(str(exc).split())[:300]}") from exc


def detected_attributes() -> dict[str, Any]:
    """The attributes from Google's metadata server; none if it does not answer."""
    from opentelemetry.resourcedetector.gcp_resource_detector import GoogleCloudResourceDetector

    try:
        return dict(GoogleCloudResourceDetector().detect().attributes)
    except Exception as exc:  # noqa: BLE001  (a broken metadata server must not keep the relay from starting)
        _logger.warning("Google's metadata server did not say where this process runs: %s", type(exc).__name__)
        return {}
