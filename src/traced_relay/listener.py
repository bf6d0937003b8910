"""A WSGI application served from a thread of this process: for `dev`, the embedded queue and tests."""

from __future__ import annotations

import errno
import socket
from threading import Thread
from typing import TYPE_CHECKING, Any

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from traced_relay.errors import PortTaken

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


class _QuietHandler(WSGIRequestHandler):
    timeout = None  # a keep-alive connection may rest between two calls for as long as it likes

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002  (the name is werkzeug's)
        """Leave the access log off; the relay's records say more."""

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Listener:
    """Serves *app* on *host* and *port* (0: any free one) until it is stopped."""

    def __init__(self, app: WSGIApplication, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._server = _bind(app, host, port)
        self.port: int = self._server.port
        self.url = f"http://{host}:{self.port}"
        self._thread = Thread(target=self._server.serve_forever, name=f"listener-{self.port}", daemon=True)

    def start(self) -> Listener:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Listener:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _bind(app: WSGIApplication, host: str, port: int) -> BaseWSGIServer:
    # werkzeug ends the process on a taken port; a socket of our own lets us say it as an error.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as exc:
        listening.close()
        if exc.errno == errno.EADDRINUSE:
            raise PortTaken(f"port {port} on {host} is taken by another process; choose another with the option") from exc
        raise
    listening.listen(1024)
    server = make_server(host, port, app, threaded=True, request_handler=_QuietHandler, fd=listening.fileno())
    listening.close()  # werkzeug works on its own duplicate
    server.daemon_threads = True
    server.port = server.socket.getsockname()[1]
    return server
