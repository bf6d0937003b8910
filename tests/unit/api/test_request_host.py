from __future__ import annotations

import pytest

from traced_relay.api.request_host import asked_host

NOW, BEFORE = (1, 1), (1, 0)


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "localhost:8080", "localhost:", "relay.example.com.", "my_relay-1", "127.0.0.1", "[::1]"),
        *("[2001:db8::1]:443", "[::ffff:10.0.0.1]:1", "a%20b", "h:65535", "x" * 253),
    ],
)
def test_a_valid_host_is_returned(host: str) -> None:
    assert asked_host("/v1/tasks", [host], NOW) == host
    assert asked_host(f"http://{host}/v1/tasks", ["localhost"], NOW) == host


NO_HOSTS = [
    *("", " ", "a b", "a,b:c:d", "u@h", "u:p@h", "h/x", "h?x", "h#x", "h:http", "h:-1", "h:+1", "h:65536", "h:123456"),
    *("::1", "[::1", "[::1]x", "[zz]", "[1:2]", "[127.0.0.1]", "[::1%25eth0]", "h\u00e9", "h\t", "a\\b", '"h"', "<h>"),
]


@pytest.mark.parametrize("host", NO_HOSTS)
def test_an_invalid_host_is_refused_in_header_and_target(host: str) -> None:
    for version in (NOW, BEFORE):
        with pytest.raises(ValueError, match="the host is not a name or an address"):
            asked_host("/", [host], version)
    if not set(host) & set("/?#"):
        with pytest.raises(ValueError, match="the host is not a name or an address"):
            asked_host(f"http://{host}/", ["localhost"], NOW)


@pytest.mark.parametrize(
    "target", ["http://a.example", "HTTP://a.example/x", "https://a.example?x", "http://a.example#"]
)
def test_an_absolute_target_has_precedence_over_host(target: str) -> None:
    assert asked_host(target, ["b.example"], NOW) == "a.example"
    assert asked_host(target, [], BEFORE) == "a.example"


@pytest.mark.parametrize("target", ["x", "http:", "http:x", "http:/x", "ftp://a/x", "a:443", "httpx://a/", "*x", "?x"])
def test_a_target_of_another_form_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match="neither a path nor an http URL"):
        asked_host(target, ["localhost"], NOW)


@pytest.mark.parametrize("target", ["/", "*", "http://localhost/"])
def test_http_1_1_requires_exactly_one_host(target: str) -> None:
    with pytest.raises(ValueError, match="without Host"):
        asked_host(target, [], NOW)
    for version in (NOW, BEFORE):
        with pytest.raises(ValueError, match="more than one Host"):
            asked_host(target, ["localhost", "localhost"], version)
    assert asked_host("/", [], BEFORE) is None
