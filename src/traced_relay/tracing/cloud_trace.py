"""Export to Cloud Trace over its API. Only a relay whose otel.yaml selects it loads the client."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import google.auth
import grpc
from google.cloud.trace_v2 import TraceServiceClient
from google.cloud.trace_v2.services.trace_service.transports import TraceServiceGrpcTransport
from opentelemetry.sdk.trace.export import SpanExportResult

from traced_relay.errors import InvalidSettings
from traced_relay.tracing.cloud_trace_proto import Translator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from traced_relay.tracing.otel_yaml import CloudTraceOptions

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


def create(options: CloudTraceOptions, project: str) -> CloudTrace:
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
