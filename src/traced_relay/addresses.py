"""Which addresses a call may connect to: an explicit table, read on the resolved address, never on a URL's text."""

from __future__ import annotations

import re
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from werkzeug.datastructures import Headers


class Reach(Enum):
    """How far away an address is, for whoever wants to connect to it."""

    PUBLIC = "public"
    PRIVATE = "private"  # only where a rule says allow_private
    NEVER = "never"


# RFC 6890 and the IANA special-purpose registries. Python's is_private and is_global pass NAT64 and 6to4.
_PRIVATE_V4 = [
    IPv4Network(n) for n in ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
]
_NEVER_V4 = [
    IPv4Network(n)
    for n in (
        "0.0.0.0/8",
        "169.254.0.0/16",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
]
_METADATA_V6 = IPv6Network("fd20:ce::254/128")
_PRIVATE_V6 = [IPv6Network(n) for n in ("::1/128", "fc00::/7")]
_GLOBAL_V6 = IPv6Network("2000::/3")
_NEVER_V6 = [
    IPv6Network(n)
    for n in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")  # within 2000::/3: Teredo, examples, 6to4
]


def reach_of(address: str) -> Reach:
    """Where *address*, as `getaddrinfo` gives it, lies; what cannot be read, or names a zone, is out of reach."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return Reach.NEVER
    if isinstance(parsed, IPv4Address):
        return _reach_v4(parsed)
    if parsed.scope_id is not None:
        return Reach.NEVER
    return _reach_v4(parsed.ipv4_mapped) if parsed.ipv4_mapped else _reach_v6(parsed)


def _reach_v4(address: IPv4Address) -> Reach:
    if any(address in network for network in _NEVER_V4):
        return Reach.NEVER
    return Reach.PRIVATE if any(address in network for network in _PRIVATE_V4) else Reach.PUBLIC


def _reach_v6(address: IPv6Address) -> Reach:
    if address in _METADATA_V6:
        return Reach.NEVER
    if any(address in network for network in _PRIVATE_V6):
        return Reach.PRIVATE
    if address not in _GLOBAL_V6 or any(address in network for network in _NEVER_V6):
        return Reach.NEVER
    return Reach.PUBLIC


def is_local_host(host: str) -> bool:
    """Whether a Host header names this machine; a page whose name was rebound to loopback sends another."""
    return re.fullmatch(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", host, re.IGNORECASE) is not None


def is_from_another_site(headers: Headers) -> bool:
    """Whether a browser says that a page of another site, or of another port, has sent this; programs say nothing."""
    if headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        return True
    origin = headers.get("Origin")
    return origin is not None and origin.partition("://")[2].lower() != headers.get("Host", "").lower()
