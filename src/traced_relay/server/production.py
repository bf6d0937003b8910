"""The production server: gunicorn, one process, a thread for every running call and for nothing that only waits."""

from __future__ import annotations

import logging
import resource
import signal
from threading import Thread
from typing import TYPE_CHECKING, Any, TextIO

from gunicorn.app.base import BaseApplication

from traced_relay.app import Application
from traced_relay.config.on_google import is_on_google
from traced_relay.config.settings import from_environment
from traced_relay.logs import writer
from traced_relay.runtime.listener import listen
from traced_relay.server.captured_output import Captured, log_uncaught
from traced_relay.server.worker import PATIENCE, SPARE_CONNECTIONS, BufferedWorker, options
from traced_relay.tracing.pipeline import Telemetry, telemetry
from traced_relay.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

    from _typeshed.wsgi import WSGIApplication

    from traced_relay.config.settings import Settings

_logger = logging.getLogger(__name__)
_LAST_SPANS = 0.2  # seconds in which calls that were cut end theirs; a worker is killed a second after the signal


class _Server(BaseApplication):  # type: ignore[misc]
    def __init__(self, settings: Settings, options: dict[str, Any], patience: float, stream: TextIO | None) -> None:
        self.patience = patience  # the worker's, to which gunicorn hands nothing but the application
        self._settings = settings
        self._stream = stream
        self._options = options
        self._assembly: Application | None = None
        self._telemetry: Telemetry | None = None
        self._cutting: Thread | None = None
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options.items():
            self.cfg.set(name, value)
        self.cfg.set("post_worker_init", lambda _worker: self._listen_for_the_end())
        self.cfg.set("worker_exit", lambda _arbiter, _worker: self.close())

    def load(self) -> WSGIApplication:
        # Called in the worker: gRPC channels and SQLite connections do not survive a fork.
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
        self._assembly = Application(settings, log=log, provider=self._telemetry.provider)
        self._telemetry.start()
        self._assembly.start()
        return self._assembly.wsgi

    def _listen_for_the_end(self) -> None:
        """Put ourselves before gunicorn's own handlers, which only stop taking requests."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            own = signal.getsignal(number)

            def handle(number: int, frame: FrameType | None, own: Any = own) -> None:
                # In a thread: this one may be holding the very locks that cutting and writing take.
                self._cutting = Thread(target=self._interrupt, args=(signal.Signals(number).name,), daemon=True)
                self._cutting.start()
                own(number, frame)

            signal.signal(number, handle)

    def _interrupt(self, name: str) -> None:
        if self._assembly is not None:
            self._assembly.interrupt(name)
        if self._telemetry is not None:
            self._telemetry.close(_LAST_SPANS)

    def close(self) -> None:
        if self._cutting is not None:
            self._cutting.join(1)
        if self._assembly is not None:
            self._assembly.close()
        if self._telemetry is not None:
            self._telemetry.close()


def serve_as_told(environ: Mapping[str, str]) -> None:
    """Serve with the settings of *environ*; on Google Cloud all output of the process becomes entries of the log."""
    log_uncaught()
    if not is_on_google(environ):
        serve(from_environment(environ))
        return
    with Captured() as captured:
        identity = writer.Identity(environ.get("GOOGLE_CLOUD_PROJECT", ""), __version__, "")
        writer.configure(identity, stream=captured.stream)
        serve(from_environment(environ), stream=captured.stream)


def serve(settings: Settings, *, patience: float = PATIENCE, stream: TextIO | None = None) -> None:
    """
    Serve until SIGTERM or SIGINT; PortTaken and Unavailable are raised before anything runs.

    Whoever needs more than *patience* seconds to send a request, or to take its answer, is cut. Records go to
    *stream*, by default stdout.
    """
    _configure_log(settings, stream)
    # Two for a call that runs, in and out, one for a connection that waits for the next.
    _allow_files(3 * settings.threads + 2 * SPARE_CONNECTIONS)
    listening = listen(settings.host, settings.port)
    listening.set_inheritable(True)
    Application.check(settings)
    _Server(
        settings,
        {
            "bind": f"fd://{listening.detach()}",
            "workers": 1,
            "worker_class": BufferedWorker,
            "control_socket_disable": True,
            **options(settings.threads),
        },
        patience,
        stream,
    ).run()


def _allow_files(wanted: int) -> None:
    """Where the system lets us, open so many files at once; 1024, the usual limit, are 500 calls."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    if now != resource.RLIM_INFINITY and now < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
    if allowed < wanted:
        _logger.warning("only %d files may be open at once, %d would serve all threads", allowed, wanted)


def _configure_log(settings: Settings, stream: TextIO | None) -> writer.Log:
    identity = writer.Identity(settings.project, settings.version, settings.instance)
    return writer.configure(identity, stream=stream)
