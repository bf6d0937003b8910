from __future__ import annotations

import re
from typing import Any, get_args

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from traced_relay.tasks.call import Method, RetryPolicy, Url, is_idempotent, split_target
from traced_relay.tasks.enqueue_request import EnqueueRequest
from traced_relay.tasks.header_policy import with_content_type

URL = "https://reports.example.com/build"


def request(**changes: Any) -> EnqueueRequest:
    return EnqueueRequest.model_validate({"url": URL} | changes)


@pytest.mark.parametrize(
    ("given", "content"),
    [
        ({}, (b"", None)),
        ({"body": None}, (b"null", "application/json")),
        ({"body": {"b": 1, "a": ["é"]}}, ('{"b":1,"a":["é"]}'.encode(), "application/json")),
        ({"body": False}, (b"false", "application/json")),
        ({"body": ""}, (b"", "text/plain; charset=utf-8")),
        ({"body": '{"a": 1}\n'}, (b'{"a": 1}\n', "text/plain; charset=utf-8")),
        ({"body": "é\x00"}, ("é\x00".encode(), "text/plain; charset=utf-8")),
        ({"body_base64": "AP8="}, (b"\x00\xff", "application/octet-stream")),
        ({"body_base64": ""}, (b"", "application/octet-stream")),
    ],
)
def test_a_body_is_sent_byte_for_byte_with_its_type(given: dict[str, Any], content: tuple[bytes, str | None]) -> None:
    assert request(**given).content() == content


@pytest.mark.parametrize(
    ("headers", "content_type", "expected"),
    [
        ({}, None, {}),
        ({"x": "1"}, "text/plain", {"content-type": "text/plain", "x": "1"}),
        ({"Content-Type": "text/csv"}, "text/plain", {"Content-Type": "text/csv"}),
    ],
)
def test_the_callers_content_type_wins(
    headers: dict[str, str], content_type: str | None, expected: dict[str, str]
) -> None:
    assert with_content_type(request(headers=headers).headers, content_type) == expected


def test_defaults_are_those_of_the_contract() -> None:
    assert RetryPolicy().model_dump() == {
        "max_attempts": 5,
        "max_retry_duration": "0s",
        "min_backoff": "1s",
        "max_backoff": "5m",
        "max_doublings": 8,
        "jitter": "full",
        "retryable_status_codes": None,
    }
    assert request().model_dump(exclude={"retry", "callback", "labels", "headers"}) == {
        "url": URL,
        "method": "POST",
        "body": None,
        "body_base64": None,
        "queue": None,
        "route": "relay",
        "schedule_time": None,
        "delay": None,
        "timeout": None,
        "idempotent": None,
    }


def test_a_calls_method_decides_if_it_is_idempotent() -> None:
    assert {method for method in get_args(Method) if is_idempotent(method, None)} == {
        *("GET", "HEAD", "PUT", "DELETE", "OPTIONS")
    }


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("method", get_args(Method))
def test_the_caller_decides_before_the_method(method: Method, said: bool) -> None:
    assert is_idempotent(method, said) is said


@pytest.mark.parametrize(
    "url",
    [
        *("http://a", "http://a/", "https://a.example.com./b?c=d", "HTTPS://A.EXAMPLE/", "http://a_b.example:65535/"),
        *(
            "http://127.0.0.1:8080/",
            "http://[::1]/",
            "http://[2001:db8::ffff:1.2.3.4]:80/x",
            "https://a/%20;b=c//d/../e",
        ),
        *(
            'http://a/"<>[\\]^`{|}',
            'http://a?"<>[\\]^`{|}',
            "http://a/%61/./../..;x=1//%2C?",
            "http://a:0080/",
            "http://a?",
        ),
        *("http://a/?q=[1]&next=http://b@c/", "http://xn--bcher-kva.example/", f"http://{'a' * 63}.b/"),
    ],
)
def test_an_absolute_url_is_taken_as_it_is(url: str) -> None:
    assert request(url=url).url == url


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://a", "/"),
        ("http://a?", "/?"),
        ("http://a?x/y", "/?x/y"),
        ("http://a/?", "/?"),
        ("http://a/x?#y", "/x?"),
        ("http://[::1]:8080//x//?//", "//x//?//"),
        ("http://a/%61%2c/./../..;x=1?ids[]=1|2", "/%61%2c/./../..;x=1?ids[]=1|2"),
    ],
)
def test_a_target_is_what_follows_the_origin_byte_for_byte(url: str, target: str) -> None:
    assert split_target(url) == (re.match("http://[^/?#]*", url)[0], target)  # type: ignore[index]


@pytest.mark.parametrize(
    "url", ["", "http:a", "http:/a", "//a/", "http://", "http://a/ b", "http://a/é", "http://a/\n"]
)
def test_a_url_without_a_sendable_target_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="must be an absolute URL in printable ASCII"):
        split_target(url)


@given(
    st.from_regex(r"https?://[A-Za-z0-9._*%:@\[\]-]{0,20}(:[0-9]{0,5})?[!-~]{0,20}", fullmatch=True)
    | st.text(max_size=30).map("http://a".__add__)
)
def test_an_accepted_url_can_be_requested(url: str) -> None:
    try:
        TypeAdapter(Url).validate_python(url)
    except ValidationError:
        return
    origin, target = split_target(url)
    assert url in (f"{origin}{target}", f"{origin}{target[1:]}")
    assert requests.Session().get_adapter(str(requests.Request("GET", f"{origin}/").prepare().url))


def test_a_policy_is_stored_and_read_back_whole() -> None:
    policy = RetryPolicy(max_attempts=7, min_backoff="0.1s", jitter="none", retryable_status_codes=(429, 500))
    assert RetryPolicy.model_validate_json(policy.model_dump_json()) == policy
