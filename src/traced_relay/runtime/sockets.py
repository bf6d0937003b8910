"""Listening sockets, and addresses as in URLs."""

from __future__ import annotations

import errno
import socket

from traced_relay.errors import InvalidSettings, PortTaken


def address_of(host: str, port: int) -> str:
    """The host and port as in a URL: an IPv6 address is in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; PortTaken if another process uses the port."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as exc:
        listening.close()
        if exc.errno == errno.EADDRINUSE:
            raise PortTaken(f"port {port} on {host} is used by another process; choose another one") from exc
        raise InvalidSettings(f"port {port} on {host} cannot be opened: {exc.strerror}") from exc
    listening.listen(1024)
    return listening
