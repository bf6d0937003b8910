from __future__ import annotations

import http.client
import re
import socket
from threading import Barrier
from typing import TYPE_CHECKING, Any

import pytest

from support.asking import get
from traced_relay.errors import InvalidSettings, PortTaken
from traced_relay.runtime.listener import Listener
from traced_relay.runtime.sockets import listen

if TYPE_CHECKING:
    from collections.abc import Iterable


def path_app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "application/json")])
    return [f'"{environ["PATH_INFO"]}"'.encode()]


def test_an_app_is_served_until_it_is_stopped() -> None:
    with Listener(path_app) as listener:
        assert listener.url == f"http://127.0.0.1:{listener.port}"
        assert get(f"{listener.url}/a/b").document == "/a/b"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", listener.port), 1)


def test_connections_wait_until_the_app_is_started() -> None:
    listener = Listener()
    early = http.client.HTTPConnection("127.0.0.1", listener.port, timeout=5)
    early.request("GET", "/early")
    listener.start(path_app)
    assert early.getresponse().read() == b'"/early"'
    early.close()
    listener.stop()


def test_requests_are_served_concurrently() -> None:
    both = Barrier(2)

    def meeting(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        both.wait(5)
        return path_app(environ, start_response)

    with Listener(meeting) as listener:
        callers = [http.client.HTTPConnection("127.0.0.1", listener.port, timeout=5) for _ in range(2)]
        for caller in callers:
            caller.request("GET", "/")
        assert [caller.getresponse().status for caller in callers] == [200, 200]
        for caller in callers:
            caller.close()


def test_a_taken_port_is_named() -> None:
    with Listener(path_app) as listener:
        expected = f"port {listener.port} on 127.0.0.1 is used by another process; choose another one"
        with pytest.raises(PortTaken, match=f"^{re.escape(expected)}$"):
            Listener(path_app, port=listener.port)


def test_a_port_is_free_again_after_the_stop() -> None:
    with Listener(path_app) as listener:
        get(listener.url)
    with Listener(path_app, port=listener.port) as again:
        assert get(f"{again.url}/x").document == "/x"


def test_a_listener_that_never_started_can_be_stopped() -> None:
    listener = Listener(path_app)
    listener.stop()
    listen("127.0.0.1", listener.port).close()


def test_an_emulator_on_another_machine_is_refused() -> None:
    why = "port 0 on 192.0.2.1 cannot be opened: Cannot assign requested address"
    with pytest.raises(InvalidSettings, match=f"^{re.escape(why)}$"):
        listen("192.0.2.1", 0)
