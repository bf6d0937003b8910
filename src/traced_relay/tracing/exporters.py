"""The exporters that otel.yaml can select, and the attributes that Google's platforms give the resource."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

import google.auth
import grpc
from google.cloud.trace_v2 import TraceServiceClient
from google.cloud.trace_v2.services.trace_service.transports import TraceServiceGrpcTransport
from opentelemetry.resourcedetector.gcp_resource_detector import GoogleCloudResourceDetector
from opentelemetry.sdk.trace.export import SpanExportResult

from traced_relay.errors import InvalidSettings
from traced_relay.tracing.cloud_trace_proto import Translator
from traced_relay.tracing.otel_yaml import OtlpOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

    from traced_relay.tracing.otel_yaml import CloudTraceOptions, Exporter

_logger = logging.getLogger(__name__)
# These log every batch that fails; `telemetry.dropped` counts them.
logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
logging.getLogger("opentelemetry.util.re").setLevel(logging.CRITICAL)  # it logs the headers it cannot parse
logging.getLogger("grpc._common").setLevel(logging.CRITICAL)  # it logs a malformed response, and raises it as well

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # its successor is OTLP, which otel-otlp.yaml selects
    from opentelemetry.exporter.cloud_trace import CloudTraceSpanExporter

    class CloudTrace(CloudTraceSpanExporter):
        """Sends each batch once; the client by itself retries for two minutes, despite its settings."""

        def __init__(
            self, transport: TraceServiceGrpcTransport, project: str, resource_regex: str | None, *, seconds: float
        ) -> None:
            client = TraceServiceClient(transport=transport)
            super().__init__(project_id=project, client=client, resource_regex=resource_regex)  # type: ignore[no-untyped-call]
            self._close: Callable[[], None] = transport.close
            self._translator = Translator(project, resource_regex)
            self._seconds = seconds

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            """Raises the API's error."""
            self.client.batch_write_spans(self._translator.request(spans), retry=None, timeout=self._seconds)
            return SpanExportResult.SUCCESS

        def shutdown(self) -> None:
            """Aborts the running export as well."""
            self._close()


def create_exporter(exporter: Exporter, *, project: str) -> SpanExporter:
    """The exporter that otel.yaml selects; InvalidSettings names the credentials or the package that is missing."""
    if exporter.relay_cloud_trace is not None:
        return _cloud_trace(exporter.relay_cloud_trace, project)
    return _otlp(exporter.otlp_http or OtlpOptions())


def _cloud_trace(options: CloudTraceOptions, project: str) -> CloudTrace:
    if options.endpoint:
        transport = TraceServiceGrpcTransport(channel=grpc.insecure_channel(options.endpoint))
    else:
        transport = TraceServiceGrpcTransport(credentials=_credentials())
    return CloudTrace(transport, project, options.resource_regex, seconds=options.timeout / 1000)


def _credentials() -> Any:
    try:
        return google.auth.default(scopes=["https://www.googleapis.com/auth/trace.append"])[0]
    except Exception as exc:  # google-auth raises many types for an invalid credentials file
        raise InvalidSettings(f"no Google credentials: {' '.join(str(exc).split())[:300]}") from exc


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
    try:
        return dict(GoogleCloudResourceDetector().detect().attributes)
    except Exception as exc:  # noqa: BLE001  (a broken metadata server must not keep the relay from starting)
        _logger.warning("Google's metadata server did not say where this process runs: %s", type(exc).__name__)
        return {}
