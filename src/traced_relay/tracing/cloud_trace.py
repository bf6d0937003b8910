"""Google's exporter for Cloud Trace, which here tries once, gives up in time, and takes a tenth of the processor."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

import google.auth
import grpc
from google.cloud.trace_v2 import TraceServiceClient
from google.cloud.trace_v2.services.trace_service.transports import TraceServiceGrpcTransport
from opentelemetry.sdk.trace.export import SpanExportResult

from traced_relay.errors import InvalidSettings
from traced_relay.tracing.cloud_trace_spans import Translator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

_SETTINGS = ("endpoint", "timeout", "resource_regex")


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

    InvalidSettings says what is wrong with them, or that there are no Google credentials.
    """
    endpoint, timeout, regex = _checked(options)
    if endpoint:
        transport = TraceServiceGrpcTransport(channel=grpc.insecure_channel(endpoint))
    else:
        transport = TraceServiceGrpcTransport(credentials=_credentials())
    return CloudTrace(transport, project, regex, seconds=timeout / 1000)


def _checked(options: Mapping[str, Any]) -> tuple[str | None, int, str | None]:
    if unknown := sorted(set(options) - set(_SETTINGS)):
        raise InvalidSettings(f"relay_cloud_trace must not have {unknown[0]}: there are {', '.join(_SETTINGS)}")
    endpoint, timeout, regex = options.get("endpoint"), options.get("timeout", 3000), options.get("resource_regex")
    if endpoint is not None and not re.fullmatch(r"(127\.0\.0\.1|localhost|\[::1\]):[0-9]{1,5}", str(endpoint)):
        raise InvalidSettings(f"relay_cloud_trace.endpoint must be on loopback, 127.0.0.1:PORT, got {endpoint!r}")
    if type(timeout) is not int or not 100 <= timeout <= 30_000:
        raise InvalidSettings(f"relay_cloud_trace.timeout must be 100 to 30000 milliseconds, got {timeout!r}")
    try:
        re.compile(regex or "")
    except (re.error, TypeError) as exc:
        raise InvalidSettings(f"relay_cloud_trace.resource_regex must be a pattern: {exc}") from None
    return endpoint, timeout, regex


def _credentials() -> Any:
    try:
        return google.auth.default(scopes=["https://www.googleapis.com/auth/trace.append"])[0]
    except Exception as exc:  # of a file that is none, a directory or a list, it raises whatever that leads to
        raise InvalidSettings(f"no Google credentials: {' '.join(str(exc).split())[:300]}") from exc
