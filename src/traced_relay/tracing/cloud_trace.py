"""Google's exporter for Cloud Trace, behind a client that tries once and gives up in time."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

import google.auth
import grpc
from google.auth.exceptions import GoogleAuthError
from google.cloud.trace_v2 import TraceServiceClient
from google.cloud.trace_v2.services.trace_service.transports import TraceServiceGrpcTransport
from opentelemetry.exporter.cloud_trace import CloudTraceSpanExporter
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from traced_relay.errors import InvalidSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

_SETTINGS = ("endpoint", "timeout", "resource_regex")


class _OneTry:
    """All of the client that the exporter uses; left alone it would try for two minutes, whatever it was told."""

    def __init__(self, transport: TraceServiceGrpcTransport, seconds: float) -> None:
        self._client = TraceServiceClient(transport=transport)
        self._seconds = seconds
        self.trouble: Exception | None = None
        self.close: Callable[[], None] = transport.close

    def batch_write_spans(self, request: Any) -> None:
        self.trouble = None
        try:
            self._client.batch_write_spans(request, retry=None, timeout=self._seconds)
        except Exception as exc:
            self.trouble = exc  # which the exporter keeps to itself
            raise


class _Exporter(SpanExporter):
    """Google's, which raises what went wrong, and can be ended: what is being sent is cut."""

    def __init__(self, client: _OneTry, project: str, resource_regex: str | None) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # in favour of OTLP, which otel-otlp.yaml has
            self._inner = CloudTraceSpanExporter(project_id=project, client=client, resource_regex=resource_regex)  # type: ignore[no-untyped-call]
        self._client = client

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._inner.export(spans)
        if self._client.trouble is not None:
            raise self._client.trouble
        return result

    def shutdown(self) -> None:
        self._client.close()


def cloud_trace(options: Mapping[str, Any], *, project: str) -> SpanExporter:
    """
    The exporter that *options* of otel.yaml describe; with an endpoint, on this machine, it needs no credentials.

    InvalidSettings says what is wrong with them, or that there are no Google credentials.
    """
    endpoint, timeout, regex = _checked(options)
    if endpoint:
        transport = TraceServiceGrpcTransport(channel=grpc.insecure_channel(endpoint))
    else:
        transport = TraceServiceGrpcTransport(credentials=_credentials())
    return _Exporter(_OneTry(transport, timeout / 1000), project, regex)


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
    except GoogleAuthError as exc:
        raise InvalidSettings(f"no Google credentials: {str(exc).splitlines()[0]}") from exc
