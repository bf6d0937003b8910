"""What is read of a request, and that nothing is accepted that gunicorn's parser refuses."""

from __future__ import annotations

from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http import get_parser
from gunicorn.http.errors import ParseException
from hypothesis import given
from hypothesis import strategies as st

from traced_relay.api.request_host import asked_host
from traced_relay.server.request import Refused, read
from traced_relay.server.request_buffer import RequestBuffer

HOST, CHUNKED, LENGTH = b"Host: a\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n"
LINE, CHUNKS = b"POST /v1/tasks HTTP/1.1\r\n", b"5\r\nhello\r\n0\r\n\r\n"


def environ_of(sent: bytes) -> dict[str, Any]:
    """As the worker reads it; ValueError for a body that cannot be read."""
    buffer = RequestBuffer()
    buffer.add(sent)
    assert buffer.stage in ("complete", "rejectable")
    request, _ = buffer.take_request()
    environ, _ = read(request, limit=None if buffer.stage == "complete" else buffer.limit)
    return environ | {"body": environ["wsgi.input"].read()}


HEADS = [
    *(b"%b /v1/tasks HTTP/1.1\r\n" % method + HOST for method in (b"", b"post", b"PO ST", b"P\tST", b"P(", b"POST ")),
    *(
        b"POST %b HTTP/1.1\r\n" % target + HOST
        for target in (b"", b"v1", b"*", b"/\x7f", b"/\xe4", b"/a b", b"ftp://a/")
    ),
    *(b"POST %b HTTP/1.1\r\n" % target + HOST for target in (b"http://u@a/", b"http:///", b"//\t", b"/\0", b"a:80")),
    *(
        b"POST / %b\r\n" % version + HOST
        for version in (b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"HTTP/1.10")
    ),
    *(
        b"POST / %b\r\n" % version + HOST
        for version in (b"RTSP/1.0", b"ICE/1.0", b"HTTP/1.1 ", b"HTTP/1.", b"", b"HTTP/+1.1")
    ),
    *(start + LINE + HOST for start in (b" ", b"\n", b"\r\n\r\n", b"\t", b"\0", b"\xef\xbb\xbf")),
    *(LINE + hosts for hosts in (b"", HOST * 2, b"Host:\r\n", b"Host: a b\r\n", b"Host: a\\b\r\n", b"Host: u@a\r\n")),
    *(LINE + hosts for hosts in (b"Host: a/b\r\n", b"Host: a:65536\r\n", b"Host: [::\r\n", b"Host: a:-1\r\n")),
    *(
        LINE + HOST + b"%b: b\r\n" % name
        for name in (b"", b" X", b"X ", b"X\t", b"X\0", b"X\xe4", b"X y", b"X\x0b", b"(X)")
    ),
    *(
        LINE + HOST + b"X: %b\r\n" % value
        for value in (b"a\0", b"a\x01", b"a\x7f", b"a\rb", b"a\nb", b"a\r\n b", b"a\r\n\tb")
    ),
    *(
        LINE + HOST + line
        for line in (b"nonsense\r\n", b"X: a\nY: b\r\n", LENGTH * 2, b"Content-Length: 5\r\nContent-Length: 6\r\n")
    ),
    *(
        LINE + HOST + b"Content-Length: %b\r\n" % value
        for value in (b"", b"+5", b"-5", b"5,5", b"5 5", b"0x5", b"5_0", b"5.0")
    ),
    *(
        LINE + HOST + b"Transfer-Encoding: %b\r\n" % value
        for value in (b"", b"identity", b"gzip", b"xchunked", b"chunked;a=b")
    ),
    *(
        LINE + HOST + b"Transfer-Encoding: %b\r\n" % value
        for value in (b"chunked, chunked", b"chunked, gzip", b"\x0bchunked")
    ),
    *(
        LINE + HOST + two
        for two in (CHUNKED * 2, CHUNKED + LENGTH, LENGTH + CHUNKED, CHUNKED + b"Content-Type: a\r\n" * 2)
    ),
    *(LINE + HOST + b"Expect: %b\r\n" % value for value in (b"", b"200-ok", b"100-continue, x")),
    b"POST /v1/tasks HTTP/1.0\r\n" + HOST + CHUNKED,
    b"CONNECT a:80 HTTP/1.1\r\n" + HOST,
]


@pytest.mark.parametrize("head", HEADS, ids=range(len(HEADS)))
def test_an_invalid_head_is_refused_before_the_application(head: bytes) -> None:
    with pytest.raises(Refused):
        environ_of(head + b"\r\n" + (CHUNKS if b"hunked" in head else b"hello"))


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"%b\r\nhello\r\n0\r\n\r\n" % size
            for size in (b"", b"+5", b"-5", b"0x5", b"5 ", b" 5", b"5_", b"G", b"5;\n")
        ),
        *(b"5\r\nhello%b0\r\n\r\n" % end for end in (b"", b"\n", b"\r", b"XX", b"\r\n\r\n")),
        *(
            b"5\r\nhello\r\n0\r\n%b\r\n\r\n" % name
            for name in (b"Host: b", b"Content-Length: 5", b"X", b" X: y", b"X : y")
        ),
        *(b"5%bhello\r\n0\r\n\r\n" % end for end in (b"\n", b"\r", b"\n\r\n")),
    ],
)
def test_an_invalid_chunk_or_trailer_makes_the_body_unreadable(body: bytes) -> None:
    with pytest.raises(ValueError, match="malformed"):
        environ_of(LINE + HOST + CHUNKED + b"\r\n" + body + b"0\r\n\r\n" * 2)


@pytest.mark.parametrize(
    ("head", "detail"),
    [
        (LINE + HOST * 2, "Host: must be given only once"),
        (LINE, "Host: HTTP/1.1 without Host"),
        (LINE + HOST + LENGTH * 2, "the request violates HTTP: Duplicate Content-Length"),
        (LINE + HOST + b"X : SECRET\r\n", "the request violates HTTP: Invalid header token"),
        (LINE + HOST + b"Transfer-Encoding: SECRET\r\n", "Transfer-Encoding: must be chunked"),
        (LINE + HOST + b"X: y\r\n" * 100, "the request has a header over 8190 bytes, or more than 100 headers"),
    ],
)
def test_a_refusal_names_the_rule_and_quotes_nothing(head: bytes, detail: str) -> None:
    with pytest.raises(Refused) as refused:
        environ_of(head + b"\r\n")
    assert refused.value.detail == detail


def test_a_request_becomes_a_wsgi_environment() -> None:
    head = (
        b"POST /a%2Fb/%C3%A4?q=http://x/#f HTTP/1.1\r\nHost: a:1\r\nX-A: 1\r\nx-a:\t2 \r\nX_A: 3\r\nContent-Type: t\r\n"
    )
    environ = environ_of(head + LENGTH + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\nhello")
    found = {
        name: environ.get(name)
        for name in ("PATH_INFO", "QUERY_STRING", "HTTP_HOST", "HTTP_X_A", "CONTENT_TYPE", "body")
    }
    assert found == {
        "PATH_INFO": "/a/b/\xc3\xa4",
        "QUERY_STRING": "q=http://x/",
        "HTTP_HOST": "a:1",
        "HTTP_X_A": "1,2",
        "CONTENT_TYPE": "t",
        "body": b"hello",
    }


def test_an_absolute_target_names_the_host() -> None:
    environ = environ_of(b"GET http://b:2/x?y HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (environ["HTTP_HOST"], environ["PATH_INFO"], environ["QUERY_STRING"]) == ("b:2", "/x", "y")


@pytest.mark.parametrize(
    ("version", "connection", "keeps"),
    [(b"1", b"", True), (b"1", b"x, Close", False), (b"0", b"", False), (b"0", b"Keep-Alive", True)],
)
def test_a_connection_is_kept_as_the_client_asks(version: bytes, connection: bytes, keeps: bool) -> None:
    sent = b"GET / HTTP/1.%b\r\nHost: a\r\nConnection: %b\r\n\r\n" % (version, connection)
    assert read(sent)[1] is keeps


def by_gunicorn(sent: bytes) -> tuple[str, str, bytes] | None:
    """Method, path and body; None if it refuses the request or cannot read the body."""
    config = Config()
    for name in ("forwarded_allow_ips", "forwarder_headers"):
        config.set(name, "")
    parser: Any = get_parser(config, (), ("127.0.0.1", 1))
    parser.unreader.unread(sent)
    try:
        request = next(parser)
        asked_host(request.uri, [value for name, value in request.headers if name == "HOST"], request.version)
        return request.method, request.path, request.body.read()
    except (ParseException, OSError, ValueError, StopIteration):
        return None


def by_us(sent: bytes) -> tuple[str, str, bytes] | None:
    try:
        environ = environ_of(sent)
    except (Refused, ValueError):
        return None
    return environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["body"]


LINES = [
    LINE[:-2],
    b"POST /x HTTP/1.0",
    b"POST  /x HTTP/1.1",
    b"\r\nPOST /x HTTP/1.1",
    b"\r\n\r\nGET /x HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
]
NAMES = [
    b"Content-Length",
    b"Transfer-Encoding",
    b"Content-Length ",
    b"Content_Length",
    b"Host",
    b"Connection",
    b"Upgrade",
    b"X",
]
VALUES = [
    b"5",
    b"05",
    b"5,5",
    b"5 ",
    b"chunked",
    b"Chunked ",
    b"chunked, chunked",
    b"chunked,",
    b"identity",
    b"",
    b"upgrade",
    b"a\nb",
]
BODIES = [
    b"hello",
    CHUNKS,
    b"5;a\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"05\r\nhello\r\n00\r\n\r\n",
    b"5\nhello\r\n0\r\n\r\n",
    b"5;a\rb" + CHUNKS[1:],
]


@given(
    st.sampled_from(LINES),
    st.sampled_from([HOST, HOST, b""]),
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=3),
    st.sampled_from(BODIES),
    st.sampled_from([b"", b"GET /y HTTP/1.1\r\nHost: a\r\n\r\n"]),
)
def test_what_is_accepted_gunicorn_reads_alike(
    line: bytes, host: bytes, headers: list[tuple[bytes, bytes]], body: bytes, more: bytes
) -> None:
    sent = line + b"\r\n" + host + b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\n" + body + more
    buffer = RequestBuffer()
    if buffer.add(sent) in ("complete", "rejectable") and (read_here := by_us(sent)) is not None:
        assert read_here == by_gunicorn(sent)
