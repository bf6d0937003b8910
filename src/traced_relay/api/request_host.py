"""The host of a request: from its target, else from its Host header (RFC 9112, section 3.2)."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv6Address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_ABSOLUTE = re.compile(r"https?://([^/?#]*)", re.IGNORECASE)
_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::([0-9]{0,5}))?")


def asked_host(target: str, hosts: Sequence[str], version: tuple[int, int]) -> str | None:
    """
    The host and port of a request with these Host headers; None for HTTP/1.0 without one.

    An absolute target has precedence over Host. ValueError names the rule that the request breaks.
    """
    if len(hosts) > 1:
        raise ValueError("more than one Host")
    if not hosts and version >= (1, 1):
        raise ValueError("HTTP/1.1 without Host")
    for host in hosts:
        _check(host)
    if target.startswith("/") or target == "*":
        return hosts[0] if hosts else None
    absolute = _ABSOLUTE.match(target)
    if absolute is None:
        raise ValueError("the target is neither a path nor an http URL")
    _check(absolute[1])
    return absolute[1]


def _check(authority: str) -> None:
    found = _AUTHORITY.fullmatch(authority)
    if found is None or int(found[2] or 0) > 65_535 or not _is_literal(found[1]):
        raise ValueError("the host is not a name or an address with an optional port")


def _is_literal(address: str | None) -> bool:
    try:
        return address is None or bool(IPv6Address(address))
    except AddressValueError:
        return False
