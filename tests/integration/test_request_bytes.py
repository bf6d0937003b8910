"""The bytes of a request, against those that plain requests sends for the same call."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from support.example_rows import TASK_ID, call
from support.raw_downstream import OK, RawDownstream, says
from support.sending import PLAIN, made, no_token
from traced_relay.downstream.connections import origin_of
from traced_relay.downstream.sender import Sender
from traced_relay.runtime.clock import SystemClock
from traced_relay.tasks import header_policy
from traced_relay.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ANSWER = says(OK, b"Connection: close\r\nContent-Length: 0\r\n\r\n")
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
NAMES = st.from_regex(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}", fullmatch=True)
VALUES = st.from_regex(r"|[!-~]|[!-~][ -~]{0,60}[!-~]", fullmatch=True)
HEADERS = st.dictionaries(NAMES, VALUES, max_size=6).filter(lambda found: not list(header_policy.broken_rules(found)))


@pytest.fixture(scope="module")
def sender() -> Iterator[Sender]:
    sender = Sender(SystemClock(), no_token)
    yield sender
    sender.close()


@pytest.fixture(scope="module")
def downstream() -> Iterator[RawDownstream]:
    with RawDownstream(ANSWER) as running:
        yield running


def bytes_of(downstream: RawDownstream, sender: Sender, method: str, headers: Mapping[str, str], body: bytes) -> bytes:
    before = len(downstream.requests)
    url = f"http://127.0.0.1:{downstream.port}/work?month=7"
    exchange = made(sender, call(url=url, method=method, headers=dict(headers), body=body, timeout=20.0), PLAIN)
    assert exchange.ending.status_code == 200
    return untraced(*downstream.requests[before:])


def untraced(request: bytes) -> bytes:
    """Without the `traceparent`, which has a new span id each time; other tests of this process instrument requests."""
    return re.sub(rb"traceparent: [^\r]*\r\n", b"", request)


def bytes_of_requests(downstream: RawDownstream, method: str, headers: Mapping[str, str], body: bytes) -> bytes:
    before = len(downstream.requests)
    every = {"accept": "*/*", "user-agent": f"traced-relay/{__version__}"}
    every |= {name.lower(): value for name, value in headers.items()}
    every |= {"idempotency-key": TASK_ID, "accept-encoding": "identity"}
    url = f"http://127.0.0.1:{downstream.port}/work?month=7"
    with requests.Session() as session:
        session.trust_env = False
        session.send(requests.Request(method, url, headers=every, data=body or None).prepare(), timeout=20).close()
    return untraced(*downstream.requests[before:])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "body", [b"", b"{}", b"\0\r\n\r\nGET / HTTP/1.1\r\n\r\n", b"x" * 64 * 1024, b"x" * 65_537, b"x" * 900_000]
)
def test_every_method_and_body_goes_out_as_requests_sends_it(
    sender: Sender, downstream: RawDownstream, method: str, body: bytes
) -> None:
    headers = {"Content-Type": "text/plain", "X-Empty": ""}
    assert bytes_of(downstream, sender, method, headers, body) == bytes_of_requests(downstream, method, headers, body)


@given(headers=HEADERS)
def test_headers_go_out_as_requests_sends_them(
    sender: Sender, downstream: RawDownstream, headers: dict[str, str]
) -> None:
    assert bytes_of(downstream, sender, "POST", headers, b"{}") == bytes_of_requests(downstream, "POST", headers, b"{}")


@pytest.mark.parametrize(
    ("origin", "url", "host"),
    [
        ("http://example.com", "http://example.com", "example.com"),
        ("HTTP://EXAMPLE.com:80", "http://example.com:80", "example.com"),
        ("https://example.com:443", "https://example.com:443", "example.com"),
        ("https://example.com:80", "https://example.com:80", "example.com:80"),
        ("http://example.com.", "http://example.com.", "example.com"),
        ("http://[::1]:8080", "http://[::1]:8080", "[::1]:8080"),
        ("http://[2001:DB8::1]", "http://[2001:db8::1]", "[2001:db8::1]"),
        ("http://xn--bcher-kva.example", "http://xn--bcher-kva.example", "xn--bcher-kva.example"),
    ],
)
def test_an_origin_is_read_as_requests_reads_it(origin: str, url: str, host: str) -> None:
    assert (origin_of(origin).url, origin_of(origin).host_header) == (url, host)
    assert str(requests.Request("GET", f"{origin}/").prepare().url) == f"{url}/"


@pytest.mark.parametrize("origin", ["ftp://example.com", "http+unix://%2Frun", "http://", "http://[", "http://a:b"])
def test_an_origin_that_requests_cannot_reach_is_refused(origin: str) -> None:
    with pytest.raises((requests.RequestException, ValueError)):
        origin_of(origin)


@pytest.mark.parametrize("name", ["a b", "a:b", "", "a\r\nb", "é"])
def test_a_stored_header_name_that_http_forbids_is_denied(sender: Sender, downstream: RawDownstream, name: str) -> None:
    assert denied(sender, downstream, {name: "c"})


@pytest.mark.parametrize("value", [" b", "b\r\nc: d", "b\nc", "b\r", "b\0", "\u20ac", "b\u20ac"])
def test_a_stored_header_value_that_http_forbids_is_denied(
    sender: Sender, downstream: RawDownstream, value: str
) -> None:
    assert denied(sender, downstream, {"a": value})


def denied(sender: Sender, downstream: RawDownstream, headers: dict[str, str]) -> bool:
    before = len(downstream.requests)
    url = f"http://127.0.0.1:{downstream.port}/"
    exchange = made(sender, call(url=url, headers=headers, timeout=5.0), PLAIN)
    assert not exchange.ending.was_sent
    assert len(downstream.requests) == before
    return exchange.ending.reason == "denied"
