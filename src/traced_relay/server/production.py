"""The production server: gunicorn, one process, one thread for every running call."""

from __future__ import annotations

import logging
import resource
import signal
from contextlib import ExitStack
from threading import Thread
from typing import TYPE_CHECKING, Any, TextIO

from gunicorn.app.base import BaseApplication

from traced_relay.app import Application
from traced_relay.config.on_google import is_on_google
from traced_relay.config.settings import from_environment
from traced_relay.logs import writer
from traced_relay.runtime.sockets import listen
from traced_relay.server.captured_output import CapturedOutput, log_uncaught
from traced_relay.server.options import options
from traced_relay.server.worker import CLIENT_TIMEOUT, SPARE_CONNECTIONS, BufferedWorker
from traced_relay.tracing.pipeline import telemetry
from traced_relay.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

    from _typeshed.wsgi import WSGIApplication

    from traced_relay.config.settings import Settings

_logger = logging.getLogger(__name__)
_SPAN_SECONDS = 0.2  # seconds for aborted calls to end their spans; gunicorn kills a worker after one second


class _Server(BaseApplication):  # type: ignore[misc]
    def __init__(self, settings: Settings, bind: str, client_timeout: float, stream: TextIO | None) -> None:
        self.client_timeout = client_timeout  # read by the worker, which gets only this object from gunicorn
        self._settings = settings
        self._stream = stream
        self._bind = bind
        self._opened = ExitStack()
        self._interrupting: Thread | None = None
        super().__init__()

    def load_config(self) -> None:
        own = {
            "bind": self._bind,
            "workers": 1,
            "worker_class": BufferedWorker,
            "control_socket_disable": True,
            "post_worker_init": lambda _worker: self._handle_signals(),
            "worker_exit": lambda _arbiter, _worker: self.close(),
        }
        for name, value in (own | options(self._settings.threads)).items():
            self.cfg.set(name, value)

    def load(self) -> WSGIApplication:
        # Runs in the worker, because gRPC channels and SQLite connections do not survive a fork.
        settings = self._settings
        log = _configure_log(settings, self._stream)
        self._telemetry = telemetry(
            settings.otel_file,
            log,
            project=settings.project,
            is_disabled=settings.untraced,
            is_local=settings.is_local,
            on_google=settings.has_cron,
        )
        self._opened.callback(self._telemetry.close)
        self._application = Application(settings, log=log, provider=self._telemetry.provider)
        self._opened.callback(self._application.close)
        self._telemetry.start()
        self._application.start()
        return self._application.wsgi

    def _handle_signals(self) -> None:
        """Interrupt running calls before gunicorn's handlers run, which only stop accepting requests."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            own = signal.getsignal(number)

            def handle(number: int, frame: FrameType | None, own: Any = own) -> None:
                # In a thread, because this one may hold the locks that aborting and logging need.
                self._interrupting = Thread(target=self._interrupt, args=(signal.Signals(number).name,), daemon=True)
                self._interrupting.start()
                own(number, frame)

            signal.signal(number, handle)

    def _interrupt(self, name: str) -> None:
        self._application.interrupt(name)
        self._telemetry.close(_SPAN_SECONDS)

    def close(self) -> None:
        if self._interrupting is not None:
            self._interrupting.join(1)
        self._opened.close()


def serve_from_environment(environ: Mapping[str, str]) -> None:
    """Serve with the settings of *environ*; on Google Cloud all output of the process becomes log entries."""
    log_uncaught()
    if not is_on_google(environ):
        serve(from_environment(environ))
        return
    with CapturedOutput() as captured:
        identity = writer.Identity(environ.get("GOOGLE_CLOUD_PROJECT", ""), __version__, "")
        writer.configure(writer.Log(identity, stream=captured.stream))
        serve(from_environment(environ), stream=captured.stream)


def serve(settings: Settings, *, client_timeout: float = CLIENT_TIMEOUT, stream: TextIO | None = None) -> None:
    """
    Serve until SIGTERM or SIGINT; raises PortTaken and Unavailable before anything runs.

    A client has *client_timeout* seconds to send a request, and to read its response. Records go to *stream*, by
    default stdout.
    """
    _configure_log(settings, stream)
    # Two for a running call, in and out, and one for a connection that waits.
    _allow_files(3 * settings.threads + 2 * SPARE_CONNECTIONS)
    listening = listen(settings.host, settings.port)
    listening.set_inheritable(True)
    Application.check(settings)
    _Server(settings, f"fd://{listening.detach()}", client_timeout, stream).run()


def _allow_files(wanted: int) -> None:
    """Raise the limit of open files as far as allowed; the usual 1024 suffice for 500 calls."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    if now != resource.RLIM_INFINITY and now < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
    if allowed < wanted:
        _logger.warning("the limit of open files is %d; all threads need %d", allowed, wanted)


def _configure_log(settings: Settings, stream: TextIO | None) -> writer.Log:
    identity = writer.Identity(settings.project, settings.version, settings.instance)
    return writer.configure(writer.Log(identity, stream=stream))
