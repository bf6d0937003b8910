"""Which addresses a call may connect to: an explicit table, applied to the resolved address and never to a URL."""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple


class Reach(Enum):
    """Which calls may connect to an address."""

    PUBLIC = "public"
    PRIVATE = "private"  # only under a rule with allow_private
    NEVER = "never"


class Range(NamedTuple):
    """Addresses with the same reach; *networks* and *use* describe them in errors."""

    reach: Reach
    networks: str
    use: str

    def __str__(self) -> str:
        return f"{self.networks} ({self.use})"


PUBLIC = Range(Reach.PUBLIC, "the public ranges", "internet")
NO_RANGE = Range(Reach.NEVER, "no known range", "no address, or one with a zone")
_NOT_GLOBAL = Range(Reach.NEVER, "no range of the internet", "outside 2000::/3")
_GLOBAL_V6 = IPv6Network("2000::/3")

# RFC 6890, the IANA special-purpose registries, and the ranges that Google accepts for subnets of a VPC network, which
# are private. The first match counts. Python's is_private and is_global let NAT64 and 6to4 pass.
_TABLE = (
    (Reach.NEVER, "169.254.0.0/16", "link-local, metadata server"),
    (Reach.NEVER, "fd20:ce::254/128", "Google Cloud's metadata server"),
    (Reach.NEVER, "fd00:ec2::254/128", "AWS's metadata server"),
    (Reach.NEVER, "168.63.129.16/32", "Azure's metadata server"),
    (Reach.NEVER, "192.0.0.192/32", "Oracle Cloud's metadata server"),
    (Reach.NEVER, "100.100.100.200/32", "Alibaba Cloud's metadata server"),
    (Reach.NEVER, "255.255.255.255/32", "broadcast"),
    (Reach.NEVER, "0.0.0.0/8", "this network"),
    (Reach.NEVER, "224.0.0.0/4", "multicast"),
    (Reach.PRIVATE, "127.0.0.0/8", "loopback"),
    (Reach.PRIVATE, "10.0.0.0/8", "private"),
    (Reach.PRIVATE, "172.16.0.0/12", "private"),
    (Reach.PRIVATE, "192.168.0.0/16", "private"),
    (Reach.PRIVATE, "100.64.0.0/10", "shared address space"),
    (Reach.PRIVATE, "192.0.0.0/24", "IETF protocol assignments"),
    (Reach.PRIVATE, "192.0.2.0/24", "TEST-NET-1"),
    (Reach.PRIVATE, "192.88.99.0/24", "6to4 relays"),
    (Reach.PRIVATE, "198.18.0.0/15", "benchmarks"),
    (Reach.PRIVATE, "198.51.100.0/24", "TEST-NET-2"),
    (Reach.PRIVATE, "203.0.113.0/24", "TEST-NET-3"),
    (Reach.PRIVATE, "240.0.0.0/4", "class E"),
    (Reach.PRIVATE, "::1/128", "loopback"),
    (Reach.PRIVATE, "fc00::/7", "unique local"),
    (Reach.NEVER, "fe80::/10", "link-local"),
    (Reach.NEVER, "ff00::/8", "multicast"),
    (Reach.NEVER, "2001::/23", "Teredo and other protocols"),
    (Reach.NEVER, "2001:db8::/32", "documentation"),
    (Reach.NEVER, "2002::/16", "6to4"),
    (Reach.NEVER, "3fff::/20", "documentation"),
)
_RANGES = [(ip_network(networks), Range(reach, networks, use)) for reach, networks, use in _TABLE]


def range_of(address: str) -> Range:
    """The range of *address*, as `getaddrinfo` returns it; NO_RANGE if it cannot be parsed or has a zone."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return NO_RANGE
    if isinstance(parsed, IPv6Address):
        if parsed.scope_id is not None:
            return NO_RANGE
        parsed = parsed.ipv4_mapped or parsed
    other = PUBLIC if isinstance(parsed, IPv4Address) or parsed in _GLOBAL_V6 else _NOT_GLOBAL
    return next((found for network, found in _RANGES if parsed in network), other)
