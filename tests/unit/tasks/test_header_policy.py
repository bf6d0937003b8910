from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests import Request

from traced_relay.errors import FieldError
from traced_relay.tasks.header_policy import broken_rules, is_owned

NOT_A_NAME = "must be a header name: letters, digits and !#$%&'*+-.^_`|~ only"
OWNED = "is set by the relay or belongs to the connection; a call cannot set it"
NOT_A_VALUE = "must be printable ASCII without leading or trailing spaces"


@pytest.mark.parametrize(
    "name",
    [
        *(
            "Host",
            "Content-Length",
            "Transfer-Encoding",
            "TE",
            "Trailer",
            "Connection",
            "Keep-Alive",
            "Upgrade",
            "Expect",
        ),
        *("Proxy-Authorization", "Proxy-Connection", "Authorization", "X-Serverless-Authorization", "Cookie"),
        *("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "Via", "Metadata-Flavor", "X-Google-Anything"),
        *("X-Goog-Authenticated-User-Email", "X-Goog-IAP-JWT-Assertion", "X-AppEngine-QueueName"),
        *("X-CloudTasks-TaskName", "X-Cloud-Trace-Context", "webhook-id", "webhook-signature", "webhook-timestamp"),
        *("traceparent", "tracestate", "baggage", "Idempotency-Key", "X-Relay-Traceparent"),
        *("CONTENT_LENGTH", "x_appengine_queuename", "Idempotency_Key", "X_Forwarded-for", "hOsT"),
    ],
)
def test_headers_of_relay_and_connection_are_owned(name: str) -> None:
    assert is_owned(name)
    assert list(broken_rules({name: "x"})) == [FieldError(f"headers.{name}", OWNED)]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "application/json", "Accept": "*/*", "User-Agent": "me/1.0", "If-Match": '"1"'},
        {"X-Api-Key": "k", "X-Goo": "1", "Hosts": "1", "X-Host": "1", "Expected": "1", "Set-Cookie": "1"},
        {"x": ""},
        {"!#$%&'*+-.^_`|~09azAZ": " ".join(map(chr, range(0x21, 0x7F)))},
        {f"x-{number}": "v" for number in range(50)},
        {"x": "v" * 8191},
    ],
)
def test_other_headers_keep_the_rules(headers: dict[str, str]) -> None:
    assert list(broken_rules(headers)) == []


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "a:", ":a", "a\n", "a\r\nb", "a\0", "a\x7f", "é", "a(b)", 'a"', "a/b", "\ud800", "a\u212a"]
)
def test_a_name_that_http_forbids_is_named(name: str) -> None:
    assert list(broken_rules({name: "x"})) == [FieldError(f"headers.{name}", NOT_A_NAME)]


@pytest.mark.parametrize(
    "value", ["a\nb", "a\r\nx: y", "\0", "\t", "a\x0bb", "a\x7f", "é", "\u2028", "\ud800", " a", "a ", " ", "a\n"]
)
def test_a_forbidden_value_is_reported_without_its_text(value: str) -> None:
    assert list(broken_rules({"x": value})) == [FieldError("headers.x", NOT_A_VALUE)]


def test_header_names_that_differ_by_case_are_one() -> None:
    errors = list(broken_rules({"X-A": "1", "x-a": "2"}))
    assert errors == [FieldError("headers.x-a", "is given twice; header names are case-insensitive")]


def test_too_many_headers_are_refused() -> None:
    errors = list(broken_rules({f"x-{number}": "v" for number in range(51)}))
    assert errors == [FieldError("headers", "must be at most 50, got 51")]


def test_too_large_headers_are_refused() -> None:
    assert list(broken_rules({"x": "v" * 8192})) == [FieldError("headers", "must take at most 8192 bytes together")]


def test_every_broken_rule_is_reported_and_long_names_truncated() -> None:
    errors = list(broken_rules({"host": "h", "a b": "1", "ok": "1", "x" * 9000: "\n"}))
    assert [error.message for error in errors] == [
        OWNED,
        NOT_A_NAME,
        NOT_A_VALUE,
        "must take at most 8192 bytes together",
    ]
    assert errors[2].field == "headers." + "x" * 292


@given(st.dictionaries(st.text(), st.text(), max_size=5))
def test_headers_that_break_no_rule_can_be_sent(headers: dict[str, str]) -> None:
    if not list(broken_rules(headers)):
        prepared = Request("POST", "https://a.example/", headers=headers).prepare()
        assert {name: prepared.headers[name] for name in headers} == headers
