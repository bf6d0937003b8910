"""Which addresses only this machine can reach, and which requests come from a browser that was led there."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from werkzeug.datastructures import Headers
    from werkzeug.wrappers import Request


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_from_web_page(request: Request) -> bool:
    """
    Whether a page of some web site sent this to a server on loopback.

    Its script shows itself by Origin; where the site's name was rebound to loopback, by Host.
    """
    if not is_loopback(request.environ["SERVER_NAME"]):
        return False
    return "Origin" in request.headers or not is_loopback(urlsplit(f"//{request.host}").hostname or "")


def is_local_host(host: str) -> bool:
    """Whether a Host header names this machine; a page whose name was rebound to loopback sends another."""
    return re.fullmatch(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", host, re.IGNORECASE) is not None


def is_cross_site(headers: Headers) -> bool:
    """Whether a browser says that a page of another site, or of another port, has sent this; programs say nothing."""
    if headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        return True
    origin = headers.get("Origin")
    return origin is not None and origin.partition("://")[2].lower() != headers.get("Host", "").lower()
