"""Which addresses only this machine can reach, and which requests come from a browser that was led there."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from werkzeug.wrappers import Request


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_from_another_site(request: Request) -> bool:
    """
    Whether a page of some web site sent this to a server on loopback.

    Its script shows itself by Origin; where the site's name was rebound to loopback, by Host.
    """
    if not is_loopback(request.environ["SERVER_NAME"]):
        return False
    return "Origin" in request.headers or not is_loopback(urlsplit(f"//{request.host}").hostname or "")
