from __future__ import annotations

import socket

import requests

from traced_relay.downstream.connections import Received
from traced_relay.downstream.strict_response import StrictResponse


def test_a_response_releases_its_connection_once() -> None:
    released = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        raw = StrictResponse(ours, "GET")
        received = Received(requests.Request("GET", "http://a/").prepare(), raw, lambda: released.append(raw))
        received.close()
        received.close()
    assert released == [raw]
