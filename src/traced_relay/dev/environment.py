"""The whole product in one process on loopback: embedded queue, relay, and a sample downstream to call."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Self, TextIO

from google.protobuf.json_format import ParseDict
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.utils import redirect

from traced_relay.app import Application
from traced_relay.client.client import Client
from traced_relay.config import relay_yaml
from traced_relay.config.queues import QUEUE_RETRIES
from traced_relay.console.app import console_app
from traced_relay.console.dev_data import DevData
from traced_relay.dev import default_rules
from traced_relay.dev.sample_downstream import sample_downstream
from traced_relay.emulator import messages as m
from traced_relay.emulator.emulator import LocalQueue
from traced_relay.emulator.errors import ApiError
from traced_relay.errors import InvalidCall, InvalidSettings, PortTaken
from traced_relay.formats.durations import format_time
from traced_relay.logs import store, writer
from traced_relay.runtime.clock import SystemClock
from traced_relay.runtime.listener import Listener
from traced_relay.server.embedded import Front
from traced_relay.tracing.pipeline import telemetry
from traced_relay.tracing.span_store import SpanStore

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from traced_relay.config.settings import Settings


def add_queues(queue: LocalQueue, given: Settings) -> None:
    retries = ParseDict(QUEUE_RETRIES, m.RetryConfig())
    for rule in given.rules.queues:
        rates = {
            "max_dispatches_per_second": rule.max_dispatches_per_second,
            "max_concurrent_dispatches": rule.max_concurrent_dispatches,
        }
        queue.add_queue(f"{given.queue_prefix}/{rule.name}", rate_limits=rates, retry_config=retries)


class Dev:
    """
    Everything, running until it is stopped.

    *port* is the relay's, *tasks_port* the queue's for gRPC (REST is one
    further); 0 takes any free ones. The sample is at *sample_port* if that is
    free, else anywhere. With *data*, a directory, tasks survive.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        tasks_port: int = 0,
        sample_port: int = 0,
        data: Path | None = None,
        config: Path | None = None,
        stream: TextIO | None = None,
        text: bool = False,
    ) -> None:
        rules = relay_yaml.load(config) if config else None
        given = default_rules.for_dev(rules=rules)
        if data is not None:
            _make_directory(data)
            given = replace(given, ledger=f"sqlite:{data / 'ledger.db'}")
        self.records = store.RecordStore(whole_since=format_time(SystemClock().now()))
        self.spans = SpanStore()
        self._relay = Front(threads=given.threads, port=port)
        self._sample = _listener(sample_downstream(), sample_port)
        self.port = self._relay.port
        self.url = f"http://localhost:{self.port}"
        self.sample_url = self._sample.url
        self.queue = LocalQueue(
            port=tasks_port,
            rest_port=tasks_port and tasks_port + 1,
            data=data / "queue.db" if data else None,
            app_engine={"default": self._relay.url},
        )
        self._settings = given
        self._stream = stream
        self._text = text

    def greeting(self) -> str:
        """Where everything is, and a first call to paste."""
        settings = self._settings
        signed = [f"callbacks  are signed with {settings.callback_secret}"] if settings.made_callback_secret else []
        return "\n".join(
            [
                f"relay      {self.url}  (console: {self.url}/console/)",
                f"queue      {self.queue.address} gRPC, {self.queue.rest_url} REST",
                f"downstream {self.sample_url}  (/ok, /slow?seconds=2, /flaky?failures=2, /broken)",
                *signed,
                "",
                f"  {self._sample_call()}",
                "",
                "Ctrl-C ends it.",
            ]
        )

    def start(self) -> Self:
        self._sample.start()
        self.queue.start()
        add_queues(self.queue, self._settings)
        given = replace(self._settings, emulator=self.queue.address)
        log = writer.configure(
            writer.Identity(given.project, given.version, given.instance),
            stream=self._stream,
            text=self._text,
            store=self.records,
        )
        self._telemetry = telemetry(
            given.otel_file,
            log,
            project=given.project,
            is_disabled=given.untraced,
            is_local=True,
            more_processors=[self.spans],
        )
        self.assembly = Application(given, log=log, provider=self._telemetry.provider, has_console=True)
        console = console_app(self._console_client(), self._dev_data())
        self._telemetry.start()
        self.assembly.start()
        self._relay.start(DispatcherMiddleware(_with_a_front_door(self.assembly.wsgi), {"/console": console}))
        return self

    def _console_client(self) -> Client:
        """Asks as an operator: where relay.yaml lets nobody in without a token, the queue signs one."""
        rules, token = self._settings.rules, None
        if not self._settings.open_on_loopback and rules.callers:
            ranked = sorted(rules.callers, key=lambda caller: caller.role != "operator")
            token = partial(self.queue.token, ranked[0].email, rules.audience or "")
        return Client(self._relay.url, id_token=token, timeout=8.0, tries=1)

    def _dev_data(self) -> DevData:
        settings = self._settings

        def call_queue(method: str, name: str) -> None:
            try:
                self.queue.tell(method, f"{settings.queue_prefix}/{name}")
            except ApiError as exc:
                raise InvalidCall(exc.message, status=409) from exc
            if method == "PurgeQueue":
                self.assembly.check_tasks()

        return DevData(self.records, self.spans, call_queue, sample=self._sample_call())

    def _sample_call(self) -> str:
        """A first call to paste."""
        call = f'{{"url": "{self.sample_url}/flaky?failures=2"}}'
        return f"curl -s {self.url}/v1/tasks -H 'content-type: application/json' -d '{call}'"

    def interrupt(self, signal: str) -> None:
        """Cut all running calls, because of that signal."""
        self.assembly.interrupt(signal)

    def stop(self) -> None:
        self.queue.stop()
        self._relay.stop()
        self._sample.stop()
        self.assembly.close()
        self._telemetry.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _listener(app: WSGIApplication, port: int) -> Listener:
    try:
        return Listener(app, port=port)
    except PortTaken:
        return Listener(app)


def _with_a_front_door(relay: WSGIApplication) -> WSGIApplication:
    """Whoever opens the relay's address in a browser means the console."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        is_at_the_door = environ["REQUEST_METHOD"] == "GET" and environ["PATH_INFO"] in ("", "/")
        return (redirect("/console/") if is_at_the_door else relay)(environ, start_response)

    return answer


def _make_directory(data: Path) -> None:
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise InvalidSettings(f"--data {data}: cannot be made: {exc.strerror}") from exc
