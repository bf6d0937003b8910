from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from support.hostile_urls import ORDINARY_PATHS, PATHS
from traced_relay.downstream.rules import Downstream, UrlPattern, find


def downstream(url: str, **changes: Any) -> Downstream:
    return Downstream.model_validate({"name": "reports", "url": url, "auth": "none"} | changes)


@pytest.mark.parametrize(
    ("pattern", "url", "expected"),
    [
        ("https://a.example/", "https://a.example/", True),
        ("https://a.example", "https://a.example/x?y#z", True),
        ("https://a.example/", "HTTPS://A.Example", True),
        ("https://A.example/", "https://a.example./", True),
        ("https://a.example/", "http://a.example/", False),
        ("https://a.example/", "https://a.example.evil.test/", False),
        ("https://a.example/", "https://evil.test/a.example/", False),
        ("https://a.example/", "https://aXexample/", False),
        ("https://*.run.app/", "https://a.run.app/", True),
        ("https://*.run.app/", "https://a.b.run.app/", True),
        ("https://*.run.app/", "https://run.app/", False),
        ("https://*.run.app/", "https://evilrun.app/", False),
        ("https://*.run.app/", "https://a.run.app.evil.test/", False),
        ("https://a.*.example/", "https://a.b.c.example/", True),
        ("https://a.*.example/", "https://a.example/", False),
        ("https://*/", "https://anything.example/", True),
        ("https://a.example/", "https://a.example:443/", True),
        ("http://a.example/", "http://a.example:80/", True),
        ("http://a.example:1/", "http://a.example:1/", True),
        ("https://a.example/", "https://a.example:8443/", False),
        ("https://a.example:8443/", "https://a.example:8443/", True),
        ("https://a.example:8443/", "https://a.example/", False),
        ("http://127.0.0.1:*/", "http://127.0.0.1/", True),
        ("http://127.0.0.1:*/", "http://127.0.0.1:8080/", True),
        ("http://127.0.0.1:*/", "http://127.0.0.10:8080/", False),
        ("http://[::1]:*/", "http://[::1]:8080/", True),
        ("http://[::1]/", "http://[::2]/", False),
        ("https://*/", "https://[::1]/", True),
    ],
)
def test_scheme_host_and_port_are_matched_whole(pattern: str, url: str, expected: bool) -> None:
    assert downstream(pattern).matches(url) is expected


@pytest.mark.parametrize("path", PATHS.split())
def test_no_server_reads_a_matching_path_as_another_path(path: str) -> None:
    assert downstream("https://a.example/public/").matches(f"https://a.example{path}") is False


@pytest.mark.parametrize("path", ORDINARY_PATHS.split())
def test_an_ordinary_path_below_a_rule_matches(path: str) -> None:
    assert downstream("https://a.example/public").matches(f"https://a.example{path}?a/../b#c") is True


@pytest.mark.parametrize("path", [*PATHS.split(), *ORDINARY_PATHS.split()])
def test_a_rule_for_a_whole_host_takes_every_path(path: str) -> None:
    assert downstream("https://a.example/").matches(f"https://a.example{path}") is True


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "",
            "a.example",
            "ftp://a.example/",
            "https://",
            "https:///x",
            "https://.a/",
            "https://a..b/",
            "https://a*.b/",
        ),
        *("https://user@a.example/", "https://a.example/?q", "https://a.example/#f", "https://a.example/*"),
        *("https://a.example:0/", "https://a.example:65536/", "https://a.example:²/", "https://a.example:x/"),
        *("https://[zz]/", "https://a b/", "https://é.example/"),
        *("https://a/é/", "https://a/x y/", "https://a//x/", "https://a/x/../y/", "https://a/%2e%2e/", "https://a/%/"),
    ],
)
def test_an_invalid_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValidationError):
        downstream(pattern)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "x" * 64},
        {"auth": "basic"},
        {"trace": "b3"},
        {"allow_private": "yes"},
        {"x": 1},
    ],
)
def test_a_rule_is_closed_and_strict(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        downstream("https://a.example/", **changes)


def test_a_rule_allows_private_addresses_only_explicitly() -> None:
    made = downstream("https://a.example/")
    assert (made.allow_private, made.trace, made.audience) == (False, "w3c", None)


def test_an_id_token_needs_tls() -> None:
    with pytest.raises(ValidationError, match="must be none for http://"):
        downstream("http://a.example/", auth="id_token")
    assert downstream("https://a.example/", auth="id_token").auth == "id_token"


@pytest.mark.parametrize(
    ("url", "audience"),
    [
        ("https://a.run.app/build?x", "https://a.run.app"),
        ("https://A.Run.App:8443/build", "https://a.run.app:8443"),
        ("https://a.run.app:443/", "https://a.run.app"),
        ("https://a.run.app./build", "https://a.run.app"),
        ("https://[2001:db8::1]:8443/", "https://[2001:db8::1]:8443"),
        ("https://r-p.cloudfunctions.net/build/x", "https://r-p.cloudfunctions.net/build"),
        ("https://r-p.cloudfunctions.net:443//build?x", "https://r-p.cloudfunctions.net/build"),
    ],
)
def test_the_audience_is_the_origin_and_a_functions_name(url: str, audience: str) -> None:
    assert downstream("https://*/", auth="id_token").audience_of(url) == audience


@pytest.mark.parametrize("path", ["/a/../build", "/%2e/build", "/a%2f..%2fbuild", "/a/..;/build"])
def test_a_function_gets_no_token_for_an_unclear_path(path: str) -> None:
    url = f"https://r-p.cloudfunctions.net{path}"
    assert downstream("https://*/", auth="id_token").matches(url) is False
    assert downstream("https://*/", auth="id_token", audience="https://one.example").matches(url) is True
    assert downstream("https://*/").matches(url) is True


def test_the_operators_audience_wins() -> None:
    assert (
        downstream("https://*/", audience="https://iap.example").audience_of("https://a.run.app/")
        == "https://iap.example"
    )


def test_the_first_match_wins_and_no_match_is_none() -> None:
    wide, narrow = downstream("https://*.example/", name="wide"), downstream("https://a.example/", name="narrow")
    assert find([narrow, wide], "https://a.example/") is narrow
    assert find([wide, narrow], "https://a.example/") is wide
    assert find([wide, narrow], "https://b.test/") is None
    assert find([], "https://a.example/") is None


@pytest.mark.parametrize("path", ["/%61dmin", "/ADMIN", "//admin", "/;x/admin", "/x/../admin", "/x/..%2fadmin"])
def test_an_ambiguous_path_matches_no_later_rule(path: str) -> None:
    rules = [downstream("https://a.example/admin/", name="admin"), downstream("https://a.example/", name="all")]
    assert find(rules, f"https://a.example{path}/users") is None
    assert find(rules, "https://a.example/administration") is rules[1]
    assert find(rules[1:], f"https://a.example{path}/users") is rules[1]


@pytest.mark.parametrize(
    ("first", "later", "covers"),
    [
        ("https://*.run.app/", "https://a.run.app/", True),
        ("https://*.run.app/", "https://a.b.run.app/x", True),
        ("https://*.run.app/", "https://*.b.run.app/", True),
        ("https://*.b.run.app/", "https://*.run.app/", False),
        ("https://a.*/", "https://a.b.c/", True),
        ("https://*.*/", "https://*/", False),
        ("https://*/", "https://*.*/", True),
        ("https://*.a.*/", "https://*.a.a.*/", True),
        ("https://a/", "http://a/", False),
        ("https://a/x", "https://a/x/y", True),
        ("https://a/x", "https://a/", False),
        ("https://a:443/", "https://a/", True),
        ("https://a/", "https://a:*/", False),
        ("https://a:*/", "https://a:8/", True),
        ("http://[::1]:*/", "http://[::1]:80/", True),
    ],
)
def test_a_rule_covers_another_if_it_matches_all_its_urls(first: str, later: str, covers: bool) -> None:
    assert UrlPattern(url=first).covers(UrlPattern(url=later)) is covers
