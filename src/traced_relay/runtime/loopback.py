"""Loopback addresses, and requests that a web page sends to them."""

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
    Whether a page of a web site sent *request* to a server on loopback.

    A script's request has an Origin; where the site's name was rebound to loopback, the Host is not a loopback one.
    """
    if not is_loopback(request.environ["SERVER_NAME"]):
        return False
    return "Origin" in request.headers or not is_loopback(urlsplit(f"//{request.host}").hostname or "")


def is_local_host(host: str) -> bool:
    """Whether the Host header *host* names this machine; a page with a name rebound to loopback sends another."""
    return re.fullmatch(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", host, re.IGNORECASE) is not None


def is_cross_site(headers: Headers) -> bool:
    """Whether a browser marked the request as sent by a page of another site or port; other clients send no mark."""
    if headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        return True
    origin = headers.get("Origin")
    return origin is not None and origin.partition("://")[2].lower() != headers.get("Host", "").lower()
