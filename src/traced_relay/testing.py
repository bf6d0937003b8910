"""What tests the relay, for whoever tests something on top of it: real servers on loopback, and a clock to turn."""

from __future__ import annotations

import io
from collections import deque
from dataclasses import dataclass, replace
from functools import cache
from threading import Condition
from typing import TYPE_CHECKING, Any, Self

from opentelemetry.sdk.trace import SpanProcessor
from werkzeug.wrappers import Request, Response

from traced_relay.app import Application
from traced_relay.config import relay_yaml
from traced_relay.dev import default_rules
from traced_relay.dev.environment import add_queues
from traced_relay.emulator.emulator import LocalQueue
from traced_relay.logs import writer
from traced_relay.logs.store import RecordStore
from traced_relay.runtime.clock import Clock, ManualClock, SystemClock
from traced_relay.runtime.listener import Listener
from traced_relay.tracing import provider
from traced_relay.tracing.span_store import SpanStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

    from traced_relay.downstream.sender import Sender

__all__ = ["Arrived", "Downstream", "ManualClock", "RunningRelay"]


@dataclass(frozen=True)
class Arrived:
    """A request as the downstream got it; header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class _ToAll(SpanProcessor):
    """Hands spans to every running relay's store: `requests` can be instrumented only once a process."""

    def on_end(self, span: ReadableSpan) -> None:
        for store in list(_stores):
            store.on_end(span)


_stores: set[SpanStore] = set()


@cache
def _provider() -> TracerProvider:
    return provider.create_provider(version="test", instance="test", processors=[_ToAll()])


class Downstream:
    """A real server on a free port: answers by its script, then 200 for ever, and keeps what arrived."""

    def __init__(self, *script: int | Response | Callable[[Arrived], Response]) -> None:
        self._script = deque(script)
        self._changed = Condition()
        self.arrived: list[Arrived] = []
        self._listener = Listener(self._answer)
        self.url = self._listener.url

    def wait_for(self, count: int, seconds: float = 10.0) -> list[Arrived]:
        """The first *count* requests; AssertionError if they do not come in time."""
        with self._changed:
            came = self._changed.wait_for(lambda: len(self.arrived) >= count, seconds)
            if not came:
                raise AssertionError(f"{len(self.arrived)} of {count} requests came within {seconds} s")
            return self.arrived[:count]

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        headers = {name.lower(): value for name, value in request.headers.items()}
        arrived = Arrived(request.method, request.full_path.rstrip("?"), headers, request.get_data())
        with self._changed:
            self.arrived.append(arrived)
            answer = self._script.popleft() if self._script else 200
            self._changed.notify_all()
        if isinstance(answer, int):
            answer = Response(status=answer)
        elif not isinstance(answer, Response):
            answer = answer(arrived)
        return answer(environ, start_response)

    def __enter__(self) -> Self:
        self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.stop()


def _ledger(given: Path | str | None) -> str:
    return given if isinstance(given, str) else f"sqlite:{given}" if given else "memory"


class RunningRelay:
    """
    A whole relay on loopback: embedded queue, application and server, spans and records kept.

    *rules* is relay.yaml as a document; without it anybody on loopback may call
    loopback, as in `dev`. A ManualClock moves queue and relay alike. *sender*
    makes the calls, say with other certificates or names. *ledger* is a file, or
    what RELAY_LEDGER says; without it memory. *changes* are settings by their
    names: `threads=20`.
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
        clock = clock or SystemClock()
        parsed = relay_yaml.parse(dict(rules), "rules") if rules is not None else None
        given = default_rules.for_dev(rules=parsed, project="test-project", environ={})
        self._listener = Listener()
        self.url = self._listener.url
        self.queue = LocalQueue(app_engine={"default": self.url}, clock=clock)
        self.queue.start()
        add_queues(self.queue, given)
        decided = {"emulator": self.queue.address, "ledger": _ledger(ledger)}
        self.settings = replace(given, **(decided | changes))
        self.records, self.spans = RecordStore(), SpanStore()
        identity = writer.Identity(given.project, given.version, given.instance)
        self.log = writer.Log(identity, stream=io.StringIO(), store=self.records, clock=clock)
        self.assembly = Application(self.settings, log=self.log, provider=_provider(), clock=clock, sender=sender)

    def wait_for(self, event: str, task_id: str, seconds: float = 10.0) -> dict[str, Any]:
        """The record of *event* for the task; AssertionError if it is not written in time."""
        record = self.records.wait_for(event, task_id, seconds)
        if record is None:
            raise AssertionError(f"no {event} of {task_id} within {seconds} s")
        return record

    def __enter__(self) -> Self:
        _stores.add(self.spans)
        self.assembly.start()
        self._listener.start(self.assembly.wsgi)
        return self

    def __exit__(self, *_: object) -> None:
        self.queue.stop()
        self._listener.stop()
        self.assembly.close()
        _stores.discard(self.spans)
