"""A WSGI application served from a thread of this process: for `dev`, the embedded queue and tests."""

from __future__ import annotations

import socket
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING, Any, Self

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from traced_relay.runtime.sockets import address_of, listen

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


class _QuietHandler(WSGIRequestHandler):
    disable_nagle_algorithm = True

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002  (the name is werkzeug's)
        """Write no access log; the relay's records contain more."""


class Listener:
    """
    Serves *app* on *host* and *port* (0 picks a free one) until it is stopped.

    The constructor binds the port, and connections wait in its backlog until `start`, which may be given the app.
    """

    def __init__(self, app: WSGIApplication | None = None, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._app = app
        self._host = host
        self._socket = listen(host, port)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://{address_of(host, self.port)}"
        self._server: BaseWSGIServer | None = None

    def start(self, app: WSGIApplication | None = None) -> Self:
        serving = app or self._app
        assert serving is not None  # noqa: S101  (no caller leaves out both)
        self._server = make_server(
            self._host, self.port, serving, threaded=True, request_handler=_QuietHandler, fd=self._socket.fileno()
        )
        self._socket.close()  # the server works on its own duplicate
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), name="listener", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        self._socket.close()
        if self._server is not None:
            with suppress(OSError):  # not every system can shut down a listening socket
                self._server.socket.shutdown(socket.SHUT_RDWR)  # wakes the loop, which polls otherwise
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
