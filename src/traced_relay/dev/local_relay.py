"""A relay on loopback, wired to an embedded queue; `dev` and the test kit are built on it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Self

from google.protobuf.json_format import ParseDict

from traced_relay.app import Application
from traced_relay.config.queues import QUEUE_RETRIES
from traced_relay.emulator import messages as m
from traced_relay.emulator.emulator import LocalQueue
from traced_relay.formats.durations import format_time
from traced_relay.logs.store import RecordStore
from traced_relay.logs.writer import Identity
from traced_relay.runtime.clock import Clock, SystemClock
from traced_relay.tracing.span_store import SpanStore

if TYPE_CHECKING:
    from pathlib import Path

    from _typeshed.wsgi import WSGIApplication
    from opentelemetry.trace import TracerProvider

    from traced_relay.config.settings import Settings
    from traced_relay.downstream.sender import Sender
    from traced_relay.logs.writer import Log
    from traced_relay.runtime.listener import Listener
    from traced_relay.server.embedded import EmbeddedServer


class LocalRelay:
    """
    Embedded queue, application and *server*, with stores of the relay's records and spans.

    A subclass calls `start_queue`, then `build` with its log and provider, then `serve`.
    """

    def __init__(
        self,
        settings: Settings,
        server: EmbeddedServer | Listener,
        *,
        clock: Clock | None = None,
        tasks_port: int = 0,
        queue_data: Path | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._server = server
        self.settings = settings
        self.records = RecordStore(whole_since=format_time(self._clock.now()))
        self.spans = SpanStore()
        self.queue = LocalQueue(
            port=tasks_port,
            rest_port=tasks_port and tasks_port + 1,
            data=queue_data,
            app_engine={"default": server.url},
            clock=self._clock,
        )

    @property
    def identity(self) -> Identity:
        return Identity(self.settings.project, self.settings.version, self.settings.instance)

    def start_queue(self) -> None:
        self.queue.start()
        add_queues(self.queue, self.settings)
        self.settings = replace(self.settings, emulator=self.queue.address)

    def build(
        self, log: Log, provider: TracerProvider, *, sender: Sender | None = None, has_console: bool = False
    ) -> None:
        self.log = log
        self.application = Application(
            self.settings, log=log, provider=provider, clock=self._clock, sender=sender, has_console=has_console
        )

    def serve(self, wsgi: WSGIApplication) -> None:
        self.application.start()
        self._server.start(wsgi)

    def stop(self) -> None:
        self.queue.stop()
        self._server.stop()
        self.application.close()

    def start(self) -> Self:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def add_queues(queue: LocalQueue, settings: Settings) -> None:
    """Create the queues of relay.yaml."""
    retries = ParseDict(QUEUE_RETRIES, m.RetryConfig())
    for rule in settings.rules.queues:
        rates = {
            "max_dispatches_per_second": rule.max_dispatches_per_second,
            "max_concurrent_dispatches": rule.max_concurrent_dispatches,
        }
        queue.add_queue(f"{settings.queue_prefix}/{rule.name}", rate_limits=rates, retry_config=retries)
