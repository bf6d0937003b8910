from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from traced_relay.downstreams import Downstream, Place, find


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


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/public", True),
        ("/public/", True),
        ("/public/a/b", True),
        ("//public//a", True),
        ("/public/a/../b", True),
        ("/private/../public/a", True),
        ("/p%75blic", True),
        ("/public/a%2Fb", True),
        ("", False),
        ("/", False),
        ("/publicity", False),
        ("/Public", False),
        ("/private", False),
        ("/public/../private", False),
        ("/public/%2e%2e/private", False),
        ("/public/.%2E/private", False),
        ("/public/..%2fprivate", False),
        ("/public/..%5cprivate", False),
        ("/public%2f..%2fprivate", False),
        ("/private/..%2fpublic", False),
        ("/private%2f..%2fpublic", False),
        ("/..", False),
    ],
)
def test_a_path_is_matched_by_whole_segments_however_the_server_reads_it(path: str, expected: bool) -> None:
    assert downstream("https://a.example/public/").matches(f"https://a.example{path}") is expected


def test_a_rule_without_a_path_takes_all_paths() -> None:
    assert downstream("https://a.example").matches("https://a.example/private/..%2fpublic")


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
    ],
)
def test_a_pattern_that_says_too_little_or_too_much_is_refused(pattern: str) -> None:
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


def test_a_rule_allows_nothing_private_unless_it_says_so() -> None:
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
        ("https://r-p.cloudfunctions.net/%2e/a/%2E./build", "https://r-p.cloudfunctions.net/build"),
        ("https://r-p.cloudfunctions.net/a/../build", "https://r-p.cloudfunctions.net/build"),
    ],
)
def test_the_audience_is_the_origin_and_of_a_function_its_name_too(url: str, audience: str) -> None:
    assert downstream("https://*/", auth="id_token").audience_of(url) == audience


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


@given(st.from_regex(r"(/([a-z.%]|%2[ef]|%5c|\.\.|public|private){0,4}){0,5}", fullmatch=True))
def test_whatever_matches_is_below_the_rule_once_dots_are_gone(path: str) -> None:
    if downstream("https://a.example/public").matches(f"https://a.example{path}"):
        kept: list[str] = []
        for part in path.replace("%2e", ".").split("/"):
            if part == "..":
                kept = kept[:-1]
            elif part not in ("", "."):
                kept.append(part)
        assert kept[0] == "public"


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
def test_a_rule_covers_another_if_it_matches_all_that_the_other_does(first: str, later: str, covers: bool) -> None:
    assert Place(url=first).covers(Place(url=later)) is covers
