from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traced_relay.downstream.addresses import Reach, range_of


def reach_of(address: str) -> Reach:
    return range_of(address).reach


NEVER = """
    0.0.0.0/8 169.254.0.0/16 224.0.0.0/4 255.255.255.255/32
    168.63.129.16/32 192.0.0.192/32 100.100.100.200/32 fd00:ec2::254/128
    ::/128 ::2/127 ::ffff:0:0:0/96 64:ff9b::/96 64:ff9b:1::/48 100::/64 2001::/23 2001:db8::/32
    2002::/16 3fff::/20 5f00::/16 fd20:ce::254/128 fe80::/10 fec0::/10 ff00::/8 4000::/3 8000::/1
"""
# What a VPC network may have as a subnet, and loopback.
PRIVATE = """
    10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 198.18.0.0/15
    198.51.100.0/24 203.0.113.0/24 240.0.0.0/5 248.0.0.0/6 255.255.255.254/32 127.0.0.0/8 ::1/128 fc00::/7
"""

# What lies beside a forbidden range, where that is not another one.
PUBLIC = """
    1.0.0.0 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0
    169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.0 192.0.1.255 192.0.3.0
    192.88.98.255 192.88.100.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 198.51.99.255 198.51.101.0
    203.0.112.255 203.0.114.0 223.255.255.255 8.8.8.8 168.63.129.15 168.63.129.17
    2000:: 2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff 2001:200:: 2001:db7:ffff:ffff:ffff:ffff:ffff:ffff 2001:db9::
    2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff 2003:: 3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff 3fff:1000::
    2606:4700:4700::1111
"""


def both_ends(networks: str) -> list[str]:
    found = [ipaddress.ip_network(network) for network in networks.split()]
    return [str(address) for network in found for address in (network[0], network[-1])]


@pytest.mark.parametrize("address", both_ends(NEVER))
def test_forbidden_ranges_are_denied_from_first_to_last_address(address: str) -> None:
    assert range_of(address).reach is Reach.NEVER


@pytest.mark.parametrize("address", both_ends(PRIVATE))
def test_private_ranges_are_private_from_end_to_end(address: str) -> None:
    assert range_of(address).reach is Reach.PRIVATE


@pytest.mark.parametrize("address", PUBLIC.split())
def test_the_neighbours_of_a_range_are_public(address: str) -> None:
    assert range_of(address).reach is Reach.PUBLIC


@pytest.mark.parametrize(
    ("address", "reach"),
    [
        ("::ffff:8.8.8.8", Reach.PUBLIC),
        ("::ffff:127.0.0.1", Reach.PRIVATE),
        ("::ffff:a00:1", Reach.PRIVATE),
        ("::ffff:169.254.169.254", Reach.NEVER),
        ("::127.0.0.1", Reach.NEVER),
        ("::8.8.8.8", Reach.NEVER),
        ("::ffff:0:127.0.0.1", Reach.NEVER),
        ("64:ff9b::127.0.0.1", Reach.NEVER),
        ("64:ff9b::8.8.8.8", Reach.NEVER),
        ("64:ff9b:1::7f00:1", Reach.NEVER),
        ("2002:7f00:1::", Reach.NEVER),
        ("2002:808:808::1", Reach.NEVER),
        ("2001:0:4136:e378:8000:63bf:80ff:fffe", Reach.NEVER),
    ],
)
def test_an_ipv4_address_is_found_inside_an_ipv6_one(address: str, reach: Reach) -> None:
    assert range_of(address).reach is reach


@pytest.mark.parametrize(
    "text",
    [
        *("fe80::1%eth0", "::1%lo", "2606:4700:4700::1111%1", "fe80::1%", "%eth0"),
        *("", " ", "127.1", "0x7f.0.0.1", "0177.0.0.1", "2130706433", "127.0.0.01", "127.0.0.1 ", "[::1]", "localhost"),
        *("127.0.0.1:80", "١٢٧.0.0.1", "127.0.0.1\0", "8.8.8.8/32", "1.2.3", "1.2.3.4.5", ":::", "g::1"),
    ],
)
def test_a_malformed_address_or_a_zone_is_never_called(text: str) -> None:
    assert range_of(text).reach is Reach.NEVER


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("10.1.2.3", "10.0.0.0/8 (private)"),
        ("::ffff:240.0.0.1", "240.0.0.0/4 (class E)"),
        ("169.254.169.254", "169.254.0.0/16 (link-local, metadata server)"),
        ("fd20:ce::254", "fd20:ce::254/128 (Google Cloud's metadata server)"),
        ("fd20:ce::253", "fc00::/7 (unique local)"),
        ("4000::1", "no range of the internet (outside 2000::/3)"),
        ("fe80::1%lo", "no known range (no address, or one with a zone)"),
        ("8.8.8.8", "the public ranges (internet)"),
    ],
)
def test_a_range_is_shown_with_its_use(address: str, shown: str) -> None:
    assert str(range_of(address)) == shown


@given(st.text())
def test_no_text_makes_it_raise(text: str) -> None:
    assert range_of(text).reach in Reach


@given(st.ip_addresses(v=4))
def test_no_ipv4_address_is_public_that_python_calls_private(address: ipaddress.IPv4Address) -> None:
    assert address.is_global or range_of(str(address)).reach is not Reach.PUBLIC


@given(st.ip_addresses(v=6))
def test_no_ipv6_address_outside_the_global_ones_is_public(address: ipaddress.IPv6Address) -> None:
    is_global = address in ipaddress.IPv6Network("2000::/3") or address.ipv4_mapped is not None
    assert is_global or range_of(str(address)).reach is not Reach.PUBLIC
