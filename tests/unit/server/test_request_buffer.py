"""At which byte a request is complete, however it is split."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traced_relay.api.limits import MAX_DISPATCH, MAX_REQUEST
from traced_relay.server.request_buffer import MAX_HEAD, RequestBuffer

GET = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
LENGTH = b"POST /v1/tasks HTTP/1.1\r\nHost: x\r\ncontent-LENGTH:  5 \r\n\r\nhello"
CHUNKED = b"POST /v1/tasks HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: x\r\n\r\n"
CHUNKS = CHUNKED + b"5\r\nhello\r\n1;a=b\r\n!\r\n0\r\n\r\n"
TRAILERS = CHUNKED + b"A\r\n0\r\n\r\n0\r\n\r\n\r\n000\r\nX-Sum: 1\r\nY: 2\r\n\r\n"
WHOLE = [GET, LENGTH, CHUNKS, TRAILERS, b"\r\n" + GET]


def posted(path: bytes, announced: int) -> bytes:
    return b"POST %b HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (path, announced)


@pytest.mark.parametrize("request_bytes", WHOLE, ids=["get", "length", "chunks", "trailers", "empty line before"])
def test_a_request_is_complete_with_its_last_byte_and_not_before(request_bytes: bytes) -> None:
    buffer = RequestBuffer()
    stages = [buffer.add(bytes([byte])) for byte in request_bytes]
    assert set(stages[:-1]) <= {"head", "body"}
    assert stages[-1] == "complete"
    assert len(buffer) == len(request_bytes)
    assert buffer.take() == request_bytes
    assert len(buffer) == 0


@given(st.sampled_from(WHOLE), st.lists(st.integers(0, 120)), st.binary(max_size=40))
def test_splits_and_following_bytes_make_no_difference(request_bytes: bytes, cuts: list[int], more: bytes) -> None:
    buffer, sent = RequestBuffer(), request_bytes + more
    places = [0, *sorted(cut for cut in cuts if cut < len(request_bytes)), len(sent)]
    stages = [buffer.add(sent[begin:end]) for begin, end in pairwise(places)]
    assert stages[-1] == "complete"
    assert buffer.take() == sent


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=30))
def test_no_input_raises(pieces: list[bytes]) -> None:
    for before in (b"", CHUNKED):
        buffer = RequestBuffer()
        for piece in (before, *pieces):
            buffer.add(piece)
        assert buffer.take() == before + b"".join(pieces)


@pytest.mark.parametrize(
    ("path", "announced", "stage"),
    [
        (b"/v1/tasks", MAX_REQUEST, "body"),
        (b"/v1/tasks", MAX_REQUEST + 1, "rejectable"),
        (b"/dispatch", MAX_REQUEST + 1, "body"),
        (b"/dispatch", MAX_DISPATCH + 1, "rejectable"),
        (b"http://relay.example:80/dispatch", MAX_REQUEST + 1, "body"),
        (b"/dispatched", MAX_REQUEST + 1, "rejectable"),
        (b"/v1/tasks", 10**17, "rejectable"),
    ],
)
def test_a_content_length_over_the_limit_is_rejectable(path: bytes, announced: int, stage: str) -> None:
    assert RequestBuffer().add(posted(path, announced)) == stage


def test_chunks_over_the_limit_are_rejectable() -> None:
    buffer, chunk = RequestBuffer(), b"186a0\r\n" + b"x" * 100_000 + b"\r\n"
    assert buffer.add(CHUNKED) == "body"
    assert [buffer.add(chunk) for _ in range(9)] == ["body"] * 8 + ["rejectable"]
    begun = RequestBuffer()
    assert begun.add(CHUNKED + b"fffffff\r\n" + b"x" * (MAX_REQUEST - 1)) == "body"
    assert begun.add(b"x") == "rejectable"


@pytest.mark.parametrize(
    ("body", "stage"),
    [
        (b"hello\r\n", "rejectable"),
        (b"-1\r\n", "rejectable"),
        (b"123456789\r\n", "rejectable"),
        (b"1;" + b"x" * 8_000, "body"),
        (b"1;" + b"x" * 9_000, "rejectable"),
        (b"0\r\n" + b"X: y\r\n" * 2_000, "rejectable"),
        (b"1\r\nx\r\n" * 299_900, "body"),
        (b"1\r\nx\r\n" * 300_010, "rejectable"),
    ],
    ids=["no size", "negative", "huge", "extension", "long extension", "long trailers", "tiny", "too many tiny ones"],
)
def test_invalid_chunks_are_rejectable(body: bytes, stage: str) -> None:
    assert RequestBuffer().add(CHUNKED + body) == stage


def test_a_coding_that_is_not_chunked_is_left_to_the_parser() -> None:
    assert RequestBuffer().add(CHUNKED.replace(b"chunked", b"gzip")) == "rejectable"


def test_a_head_has_a_limit() -> None:
    buffer = RequestBuffer()
    assert buffer.add(b"GET / HTTP/1.1\r\nX: " + b"x" * (MAX_HEAD - 100)) == "head"
    assert buffer.add(b"x" * 100) == "head_too_long"


def test_expect_100_continue_is_recognized() -> None:
    buffer = RequestBuffer()
    buffer.add(posted(b"/v1/tasks", 5).replace(b"\r\n\r\n", b"\r\nEXPECT: 100-Continue\r\n\r\n"))
    assert (buffer.stage, buffer.expects_continue) == ("body", True)


@pytest.mark.parametrize("lengths", [b"9" * 19, b"5\r\nContent-Length: 5", b"5, 5", b"+5", b"5x", b"", b"0x5"])
def test_an_ambiguous_length_is_rejectable(lengths: bytes) -> None:
    sent = b"POST /v1/tasks HTTP/1.1\r\nContent-Length: %b\r\n\r\nhello" % lengths
    assert RequestBuffer().add(sent) == "rejectable"


def test_leading_zeros_of_a_length_are_read() -> None:
    buffer = RequestBuffer()
    assert buffer.add(b"POST /v1/tasks HTTP/1.1\r\nContent-Length: %b5\r\n\r\nhell" % (b"0" * 30)) == "body"
    assert buffer.add(b"o") == "complete"
