"""The process's tracing as otel.yaml configures it, and the count of dropped spans. A slow backend delays no task."""

from __future__ import annotations

import logging
from threading import Lock, Thread
from typing import TYPE_CHECKING

from traced_relay.errors import InvalidSettings
from traced_relay.runtime.clock import Clock, SystemClock
from traced_relay.runtime.periodic import Periodic
from traced_relay.tracing.batch_processor import SHUTDOWN_TIMEOUT, BatchProcessor
from traced_relay.tracing.provider import create_disabled_provider, create_provider

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import TracerProvider

    from traced_relay.logs.writer import Log
    from traced_relay.tracing.otel_yaml import OtelFile

REPORT_EVERY = 60.0

_logger = logging.getLogger(__name__)


class Telemetry:
    """Owns *processors*, to which *provider* passes its spans, and logs once a minute how many they dropped."""

    def __init__(
        self,
        provider: TracerProvider,
        log: Log,
        *,
        processors: Iterable[BatchProcessor] = (),
        clock: Clock | None = None,
    ) -> None:
        self.provider = provider
        self._log = log
        self._processors = tuple(processors)
        self._closing = Lock()
        self._reports = Periodic("counting dropped spans", REPORT_EVERY, self._log_dropped, clock or SystemClock())

    def start(self) -> None:
        if self._processors:
            self._reports.start()

    def close(self, linger: float = 0.0) -> None:
        """
        Export the remaining spans and log how many were dropped; may be called again.

        All processors shut down at once. Each accepts spans for *linger* seconds more.
        """
        with self._closing:
            self._reports.stop()
            threads = [Thread(target=each.shutdown, args=(linger,), daemon=True) for each in self._processors]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(linger + 2 * SHUTDOWN_TIMEOUT)
            self._log_dropped()

    def _log_dropped(self) -> None:
        dropped = [processor.take_dropped() for processor in self._processors]
        spans = sum(one.spans for one in dropped)
        if spans:
            error = next((one.error for one in dropped if one.error), "the exporter is too slow")
            message = f"{spans} spans were dropped: {error}"
            self._log.write("telemetry.dropped", message=message, fields={"dropped_spans": spans})


def telemetry(
    path: Path | None,
    log: Log,
    *,
    project: str,
    is_disabled: bool = False,
    is_local: bool = False,
    on_google: bool = False,
    more_processors: Iterable[SpanProcessor] = (),
    clock: Clock | None = None,
) -> Telemetry:
    """
    The tracing that the file at *path* configures; *more_processors* get all spans as well.

    If the file or an exporter is invalid, logs the reason once and exports no spans. A *local* relay exports to Cloud
    Trace only if its endpoint is on loopback.
    """
    if is_disabled:
        return Telemetry(create_disabled_provider(), log)
    if path is None:
        if not is_local:
            _log_untraced("there is no otel.yaml beside relay.yaml, and OTEL_CONFIG_FILE names none")
        provider = create_provider(
            version=log.identity.version, instance=log.identity.instance, processors=more_processors
        )
        return Telemetry(provider, log)
    from traced_relay.tracing import otel_yaml
    from traced_relay.tracing.exporters import detected_attributes

    clock = clock or SystemClock()
    try:
        file = otel_yaml.read(path)
        if file.disabled:
            return Telemetry(create_disabled_provider(), log)
        processors = _processors(file, project, clock, is_local=is_local)
    except InvalidSettings as exc:
        _log_untraced(str(exc))
        return Telemetry(create_disabled_provider(), log)
    provider = create_provider(
        version=log.identity.version,
        instance=log.identity.instance,
        processors=[*more_processors, *processors],
        ratio=file.ratio,
        attributes=(detected_attributes() if file.resource.detection.detectors and on_google else {}) | file.attributes,
        max_attributes=file.attribute_limits.attribute_count_limit,
        max_value_length=file.attribute_limits.attribute_value_length_limit,
    )
    return Telemetry(provider, log, processors=processors, clock=clock)


def _log_untraced(why: str) -> None:
    _logger.warning("no spans are exported: %s", why)


def _processors(file: OtelFile, project: str, clock: Clock, *, is_local: bool) -> list[BatchProcessor]:
    """One processor for each exporter; none is created if an exporter is invalid."""
    batches = [batch for batch in file.batches if not (is_local and batch.sends_to_google)]
    if len(batches) < len(file.batches):
        _logger.info("spans are not exported to Google: this relay is local, and RELAY_TRACE_ENDPOINT is not set")
    from traced_relay.tracing.exporters import create_exporter

    exporters = [create_exporter(batch.exporter, project=project) for batch in batches]
    return [
        BatchProcessor(
            exporter,
            clock,
            delay=batch.schedule_delay / 1000,
            batch_size=batch.batch_size,
            queue_size=batch.max_queue_size,
        )
        for exporter, batch in zip(exporters, batches, strict=True)
    ]
