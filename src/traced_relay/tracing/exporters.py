"""The exporters that otel.yaml may name, and what Google's platforms know about where this is."""

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
from traced_relay.tracing.otel_yaml import CLOUD_TRACE, TIMEOUT, otlp_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

    from traced_relay.tracing.otel_yaml import Batch

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # its successor is OTLP, for which there is otel-otlp.yaml
    from opentelemetry.exporter.cloud_trace import CloudTraceSpanExporter

    class CloudTrace(CloudTraceSpanExporter):
        """Left alone the client would try for two minutes, whatever else it is told."""

        def __init__(
            self, transport: TraceServiceGrpcTransport, project: str, resource_regex: str | None, *, seconds: float
        ) -> None:
            client = TraceServiceClient(transport=transport)
            super().__init__(project_id=project, client=client, resource_regex=resource_regex)  # type: ignore[no-untyped-call]
            self._close: Callable[[], None] = transport.close
            self._translator = Translator(project, resource_regex)
            self._seconds = seconds

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            """What the API refuses is raised."""
            self.client.batch_write_spans(self._translator.request(spans), retry=None, timeout=self._seconds)
            return SpanExportResult.SUCCESS

        def shutdown(self) -> None:
            """End what is being sent, too."""
            self._close()


def cloud_trace(options: Mapping[str, Any], *, project: str) -> CloudTrace:
    """
    The exporter that *options* of otel.yaml describe; with an endpoint, on this machine, it needs no credentials.

    InvalidSettings says that there are no Google credentials.
    """
    endpoint = options.get("endpoint")
    if endpoint:
        transport = TraceServiceGrpcTransport(channel=grpc.insecure_channel(endpoint))
    else:
        transport = TraceServiceGrpcTransport(credentials=_credentials())
    seconds = options.get("timeout", TIMEOUT) / 1000
    return CloudTrace(transport, project, options.get("resource_regex"), seconds=seconds)


def _credentials() -> Any:
    try:
        return google.auth.default(scopes=["https://www.googleapis.com/auth/trace.append"])[0]
    except Exception as exc:  # of a file that is none, a directory or a list, it raises whatever that leads to
        raise InvalidSettings(f"no Google credentials: {' '.join(str(exc).split())[:300]}") from exc


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
