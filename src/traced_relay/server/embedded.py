"""The production server's worker in a thread of this process, so that `dev` and `serve` accept the same requests."""

from __future__ import annotations

import os
from threading import Thread
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from gunicorn.config import Config

from traced_relay.runtime.sockets import listen
from traced_relay.server.options import options
from traced_relay.server.worker import CLIENT_TIMEOUT, BufferedWorker

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


class _Worker(BufferedWorker):
    """Leaves the signals, the parent and the end of the process alone."""

    def init_signals(self) -> None:
        """Keep the process's handlers."""

    def is_parent_alive(self) -> bool:
        return True

    def keeps_idle_while_stopping(self) -> bool:
        return False

    def close(self) -> None:
        for descriptor in self.PIPE:
            os.close(descriptor)
        self.tmp.close()


class EmbeddedServer:
    """
    Serves an application on *host* and *port* (0 picks a free one), until it is stopped.

    The constructor binds the port; connections wait in its backlog until `start`.
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
        # The worker reads these attributes of gunicorn's application.
        application = SimpleNamespace(wsgi=lambda: wsgi, client_timeout=CLIENT_TIMEOUT)
        log = config.logger_class(config)
        self._worker = _Worker(1, os.getppid(), [self._socket], application, 0, config, log)
        self._thread = Thread(target=self._worker.init_process, name="embedded-server", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._worker is not None:
            self._worker.handle_exit(None, None)
            self._thread.join()
            self._worker.close()
        self._socket.close()
