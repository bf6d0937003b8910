"""The test kit for applications that use the relay: real servers on loopback, and a clock that tests control."""

from __future__ import annotations

import io
from collections import deque
from dataclasses import dataclass, replace
from functools import cache
from threading import Condition
from typing import TYPE_CHECKING, Any, Self

from opentelemetry.sdk.trace import SpanProcessor
from werkzeug.wrappers import Request, Response

from traced_relay.config import relay_yaml
from traced_relay.dev import default_rules
from traced_relay.dev.local_relay import LocalRelay
from traced_relay.logs import writer
from traced_relay.runtime.clock import ManualClock
from traced_relay.runtime.listener import Listener
from traced_relay.tracing import provider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

    from traced_relay.downstream.sender import Sender
    from traced_relay.runtime.clock import Clock
    from traced_relay.tracing.span_store import SpanStore

__all__ = ["Arrived", "Downstream", "ManualClock", "RunningRelay"]


@dataclass(frozen=True)
class Arrived:
    """A request that the downstream received; header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class _ToAll(SpanProcessor):
    """Gives spans to every running relay's store, since a process can instrument `requests` only once."""

    def on_end(self, span: ReadableSpan) -> None:
        for store in list(_stores):
            store.on_end(span)


_stores: set[SpanStore] = set()


@cache
def _provider() -> TracerProvider:
    return provider.create_provider(version="test", instance="test", processors=[_ToAll()])


class Downstream:
    """A real server on a free port: responds by its script, then with 200, and keeps the requests."""

    def __init__(self, *script: int | Response | Callable[[Arrived], Response]) -> None:
        self._script = deque(script)
        self._changed = Condition()
        self.arrived: list[Arrived] = []
        self._listener = Listener(self._respond)
        self.url = self._listener.url

    def wait_for(self, count: int, seconds: float = 10.0) -> list[Arrived]:
        """The first *count* requests; AssertionError if they do not arrive in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.arrived) >= count, seconds):
                raise AssertionError(f"{len(self.arrived)} of {count} requests arrived within {seconds} s")
            return self.arrived[:count]

    def _respond(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        headers = {name.lower(): value for name, value in request.headers.items()}
        arrived = Arrived(request.method, request.full_path.rstrip("?"), headers, request.get_data())
        with self._changed:
            self.arrived.append(arrived)
            response = self._script.popleft() if self._script else 200
            self._changed.notify_all()
        if isinstance(response, int):
            response = Response(status=response)
        elif not isinstance(response, Response):
            response = response(arrived)
        return response(environ, start_response)

    def __enter__(self) -> Self:
        self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.stop()


class RunningRelay(LocalRelay):
    """
    A complete relay on loopback: embedded queue, application and server; records and spans are kept.

    *rules* is relay.yaml as a document; without it every caller on loopback may call loopback, as in `dev`.
    A ManualClock controls queue and relay. *sender* makes the calls, for example with other certificates.
    *ledger* is a file, or a value of RELAY_LEDGER; default memory. *changes* replace settings: `threads=20`.
    """

    def __init__(
        self,
        *,
        rules: Mapping[str, Any] | None = None,
        clock: Clock | None = None,
        ledger: Path | str | None = None,
        sender: Sender | None = None,
        **changes: Any,
    ) -> None:
        parsed = relay_yaml.parse(dict(rules), "rules") if rules is not None else None
        settings = default_rules.for_dev(rules=parsed, project="test-project", environ={})
        super().__init__(settings, Listener(), clock=clock)
        self.url = self._server.url
        self.start_queue()
        self.settings = replace(self.settings, **({"ledger": _ledger(ledger)} | changes))
        log = writer.Log(self.identity, stream=io.StringIO(), store=self.records, clock=self._clock)
        self.build(log, _provider(), sender=sender)

    def wait_for(self, event: str, task_id: str, seconds: float = 10.0) -> dict[str, Any]:
        """The record of *event* for the task; AssertionError if it is not written in time."""
        record = self.records.wait_for(event, task_id, seconds)
        if record is None:
            raise AssertionError(f"no {event} of {task_id} within {seconds} s")
        return record

    def start(self) -> Self:
        _stores.add(self.spans)
        self.serve(self.application.wsgi)
        return self

    def stop(self) -> None:
        super().stop()
        _stores.discard(self.spans)


def _ledger(given: Path | str | None) -> str:
    return given if isinstance(given, str) else f"sqlite:{given}" if given else "memory"
