"""
Where this process's spans go, and the count of those that got nowhere.

A backend that is slow or gone costs spans, never a task.
"""

from __future__ import annotations

import logging
from threading import Lock, Thread
from typing import TYPE_CHECKING

from traced_relay.errors import InvalidSettings
from traced_relay.runtime.clock import Clock, SystemClock
from traced_relay.runtime.periodic import Periodic
from traced_relay.tracing import otel_yaml
from traced_relay.tracing.batch_processor import AT_THE_END, BatchProcessor
from traced_relay.tracing.exporters import detected, exporter_of
from traced_relay.tracing.provider import configure, configure_off

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import TracerProvider

    from traced_relay.logs.writer import Log
    from traced_relay.tracing.otel_yaml import OtelFile

SAY_EVERY = 60.0

_logger = logging.getLogger(__name__)


class Telemetry:
    """*provider* makes the spans that *outboxes* send; `start` and `close` frame the saying of what was dropped."""

    def __init__(
        self, provider: TracerProvider, log: Log, *, outboxes: Iterable[BatchProcessor] = (), clock: Clock | None = None
    ) -> None:
        self.provider = provider
        self._log = log
        self._outboxes = tuple(outboxes)
        self._closing = Lock()
        self._rhythm = Periodic("counting dropped spans", SAY_EVERY, self._say_dropped, clock or SystemClock())

    def start(self) -> None:
        if self._outboxes:
            self._rhythm.start()

    def close(self, linger: float = 0.0) -> None:
        """
        Send what is left, and say what was not; once is enough.

        It takes as long as one outbox does, however many there are, and *linger* seconds in which spans still end.
        """
        with self._closing:
            self._rhythm.stop()
            closing = [Thread(target=outbox.shutdown, args=(linger,), daemon=True) for outbox in self._outboxes]
            for thread in closing:
                thread.start()
            for thread in closing:
                thread.join(linger + 2 * AT_THE_END)
            self._say_dropped()

    def _say_dropped(self) -> None:
        dropped = [outbox.take_dropped() for outbox in self._outboxes]
        spans = sum(one.spans for one in dropped)
        if spans:
            why = next((one.why for one in dropped if one.why), "the exporter is too slow")
            message = f"{spans} spans were dropped: {why}"
            self._log.say("telemetry.dropped", message=message, fields={"dropped_spans": spans})


def telemetry(
    path: Path | None,
    log: Log,
    *,
    project: str,
    is_disabled: bool = False,
    is_local: bool = False,
    on_google: bool = False,
    beside: Iterable[SpanProcessor] = (),
    clock: Clock | None = None,
) -> Telemetry:
    """
    What the file at *path* asks for; *beside* that, spans are handed to whoever shows them here.

    Where that cannot be had it is said, once, and what is served leaves no spans. A *local* relay, which talks to
    loopback alone, sends spans to Cloud Trace only where its endpoint is there too.
    """
    if is_disabled:
        return Telemetry(configure_off(), log)
    if path is None:
        if not is_local:
            _untraced("there is no otel.yaml beside relay.yaml, and OTEL_CONFIG_FILE names none")
        identity = log.identity
        return Telemetry(configure(version=identity.version, instance=identity.instance, processors=beside), log)
    try:
        return _as_in(otel_yaml.read(path), log, project, is_local, on_google, beside, clock or SystemClock())
    except InvalidSettings as exc:
        _untraced(str(exc))
        return Telemetry(configure_off(), log)


def _untraced(why: str) -> None:
    _logger.warning("no spans are exported: %s", why)


def _as_in(
    file: OtelFile,
    log: Log,
    project: str,
    is_local: bool,
    on_google: bool,
    beside: Iterable[SpanProcessor],
    clock: Clock,
) -> Telemetry:
    if file.disabled:
        return Telemetry(configure_off(), log)
    batches = [batch for batch in file.batches if not (is_local and batch.leaves_this_machine)]
    if len(batches) < len(file.batches):
        _logger.info("spans stay here: a local relay sends none to Google, and RELAY_TRACE_ENDPOINT names no other")
    exporters = [exporter_of(batch, project=project) for batch in batches]
    outboxes = [
        BatchProcessor(exporter, clock, delay=batch.delay, size=batch.size, room=batch.room)
        for exporter, batch in zip(exporters, batches, strict=True)
    ]
    provider = configure(
        version=log.identity.version,
        instance=log.identity.instance,
        processors=[*beside, *outboxes],
        ratio=file.ratio,
        attributes=(detected() if file.detects and on_google else {}) | dict(file.attributes),
        most_attributes=file.attribute_count,
        longest_value=file.value_length,
    )
    return Telemetry(provider, log, outboxes=outboxes, clock=clock)
