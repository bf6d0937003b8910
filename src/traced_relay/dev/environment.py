"""`traced-relay dev`: embedded queue, relay, console and a sample downstream in one process on loopback."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Self, TextIO

from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.utils import redirect

from traced_relay.client.client import Client
from traced_relay.config import relay_yaml
from traced_relay.console.app import console_app
from traced_relay.console.dev_data import DevData
from traced_relay.dev import default_rules
from traced_relay.dev.local_relay import LocalRelay
from traced_relay.dev.sample_downstream import sample_downstream
from traced_relay.emulator.errors import ApiError
from traced_relay.errors import InvalidCall, InvalidSettings, PortTaken
from traced_relay.logs import writer
from traced_relay.runtime.listener import Listener
from traced_relay.server.embedded import EmbeddedServer
from traced_relay.tracing.pipeline import telemetry

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class Dev(LocalRelay):
    """
    Runs until it is stopped.

    *port* is the relay's, *tasks_port* the queue's for gRPC (REST gets the next one); 0 picks free ones.
    The sample downstream listens on *sample_port*, or on any free port if that is taken. *data* is a
    directory in which tasks survive; without it they are in memory.
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
        settings = default_rules.for_dev(rules=relay_yaml.load(config) if config else None)
        if data is not None:
            _make_directory(data)
            settings = replace(settings, ledger=f"sqlite:{data / 'ledger.db'}")
        server = EmbeddedServer(threads=settings.threads, port=port)
        self._sample = _listener(sample_downstream(), sample_port)
        super().__init__(settings, server, tasks_port=tasks_port, queue_data=data / "queue.db" if data else None)
        self.port = server.port
        self.url = f"http://localhost:{self.port}"
        self.sample_url = self._sample.url
        self._stream = stream
        self._text = text

    def greeting(self) -> str:
        """The addresses, and a first call to paste."""
        secret = self.settings.callback_secret
        signed = [f"callbacks  are signed with {secret}"] if self.settings.made_callback_secret else []
        return "\n".join(
            [
                f"relay      {self.url}  (console: {self.url}/console/)",
                f"queue      {self.queue.address} gRPC, {self.queue.rest_url} REST",
                f"downstream {self.sample_url}  (/ok, /slow?seconds=2, /flaky?failures=2, /broken)",
                *signed,
                "",
                f"  {self._sample_call()}",
                "",
                "Press Ctrl-C to stop.",
            ]
        )

    def start(self) -> Self:
        self._sample.start()
        self.start_queue()
        settings = self.settings
        log = writer.Log(self.identity, stream=self._stream, text=self._text, store=self.records)
        writer.configure(log)
        self._telemetry = telemetry(
            settings.otel_file,
            log,
            project=settings.project,
            is_disabled=settings.untraced,
            is_local=True,
            more_processors=[self.spans],
        )
        self.build(log, self._telemetry.provider, has_console=True)
        console = console_app(self._console_client(), self._dev_data())
        self._telemetry.start()
        self.serve(DispatcherMiddleware(_redirecting_root(self.application.wsgi), {"/console": console}))
        return self

    def _console_client(self) -> Client:
        """A client with an operator's rights; where relay.yaml requires a token, the queue signs one."""
        rules, token = self.settings.rules, None
        if not self.settings.open_on_loopback and rules.callers:
            operators_first = sorted(rules.callers, key=lambda caller: caller.role != "operator")
            token = partial(self.queue.token, operators_first[0].email, rules.audience or "")
        return Client(self._server.url, id_token=token, timeout=8.0, tries=1)

    def _dev_data(self) -> DevData:
        def call_queue(method: str, name: str) -> None:
            try:
                self.queue.call(method, f"{self.settings.queue_prefix}/{name}")
            except ApiError as exc:
                raise InvalidCall(exc.message, status=409) from exc
            if method == "PurgeQueue":
                self.application.check_tasks()

        return DevData(self.records, self.spans, call_queue, sample=self._sample_call())

    def _sample_call(self) -> str:
        call = f'{{"url": "{self.sample_url}/flaky?failures=2"}}'
        return f"curl -s {self.url}/v1/tasks -H 'content-type: application/json' -d '{call}'"

    def stop(self) -> None:
        super().stop()
        self._sample.stop()
        self._telemetry.close()


def _listener(app: WSGIApplication, port: int) -> Listener:
    try:
        return Listener(app, port=port)
    except PortTaken:
        return Listener(app)


def _redirecting_root(relay: WSGIApplication) -> WSGIApplication:
    """The *relay*, with `/` redirected to the console for browsers."""

    def respond(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        is_root = environ["REQUEST_METHOD"] == "GET" and environ["PATH_INFO"] in ("", "/")
        return (redirect("/console/") if is_root else relay)(environ, start_response)

    return respond


def _make_directory(data: Path) -> None:
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise InvalidSettings(f"--data {data}: cannot be created: {exc.strerror}") from exc
