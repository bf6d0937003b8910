"""Google's exporter for Cloud Trace, which here tries once, gives up in time, and takes a tenth of the processor."""

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
from traced_relay.tracing.exporter_options import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.sdk.trace import ReadableSpan


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
