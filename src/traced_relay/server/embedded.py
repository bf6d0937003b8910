"""The production server's worker in a thread of this process: what `serve` refuses, `dev` refuses too."""

from __future__ import annotations

import os
from threading import Thread
from typing import TYPE_CHECKING, Any

from gunicorn.config import Config

from traced_relay.runtime.listener import listen
from traced_relay.server.worker import PATIENCE, BufferedWorker, options

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


class _Worker(BufferedWorker):
    """The process belongs to whoever made the worker: its signals, its parent and its end are not the worker's."""

    def init_signals(self) -> None:
        """Leave the process's handlers as they are."""

    def is_parent_alive(self) -> bool:
        return True

    def _cap_keepalive(self, deadline: float) -> None:  # noqa: ARG002  (the signature is gunicorn's)
        """Close connections without a request at once; nobody waits for the process to end."""
        super()._cap_keepalive(0.0)

    def close(self) -> None:
        for descriptor in self.PIPE:
            os.close(descriptor)
        self.tmp.close()


class _Application:
    """What gunicorn asks its application for."""

    def __init__(self, wsgi: WSGIApplication, patience: float) -> None:
        self.patience = patience
        self.wsgi = lambda: wsgi


class EmbeddedServer:
    """
    Serves an application on *host* and *port* (0: any free one) with so many *threads*, until it is stopped.

    The port is taken, and connections wait in its backlog, from the moment the front is made.
    """

    def __init__(self, *, threads: int, host: str = "127.0.0.1", port: int = 0) -> None:
        self._threads = threads
        self._socket = listen(host, port)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://{host}:{self.port}"
        self._worker: _Worker | None = None

    def start(self, wsgi: WSGIApplication) -> None:
        config: Any = Config()
        for name, value in options(self._threads).items():
            config.set(name, value)
        application, log = _Application(wsgi, PATIENCE), config.logger_class(config)
        self._worker = _Worker(1, os.getppid(), [self._socket], application, 0, config, log)
        self._thread = Thread(target=self._worker.init_process, name="front", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._worker is not None:
            self._worker.handle_exit(None, None)
            self._thread.join()
            self._worker.close()
        self._socket.close()
