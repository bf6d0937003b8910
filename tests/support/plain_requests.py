"""
What `requests` by itself does with URLs: `python plain_requests.py` reads them as JSON and prints where it would go.

In a process of its own, because names are looked up for the whole process here. Only loopback is really connected to.
"""

from __future__ import annotations

import json
import socket
import sys
from ipaddress import ip_address
from typing import Any

import requests

from support.hostile_urls import Names

_names = Names()
_would_go: list[str] = []


def _look_up(host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
    found = _names(host, port)
    for entry in found:
        address = entry[4][0]
        if not _is_loopback(address):
            _would_go.append(address)
            raise socket.gaierror(socket.EAI_NONAME, "only loopback is real here")
    return found


def _is_loopback(text: str) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return address.is_loopback or bool(getattr(address, "ipv4_mapped", None) and address.ipv4_mapped.is_loopback)


def main() -> None:
    socket.getaddrinfo = _look_up
    went = {}
    for url in json.load(sys.stdin):
        _would_go.clear()
        try:
            requests.get(url, timeout=2)
            outcome = "answered"
        except (requests.RequestException, OSError, ValueError) as exc:
            outcome = type(exc).__name__
        went[url] = _would_go[0] if _would_go else outcome
    json.dump(went, sys.stdout)


if __name__ == "__main__":
    main()
