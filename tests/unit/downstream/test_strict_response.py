from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.raw_downstream import OK, says, says_and_stays
from support.sending import no_token, sent_to
from traced_relay.downstream.sender import Sender
from traced_relay.runtime.clock import SystemClock
from traced_relay.tasks.retry import AttemptResult

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traced_relay.downstream.sender import Exchange

EMPTY = b"Content-Length: 0\r\n\r\n"
WHOLE = OK + b"Content-Length: 2\r\n\r\nok"


@pytest.fixture(scope="module")
def sender() -> Iterator[Sender]:
    made = Sender(SystemClock(), no_token)
    yield made
    made.close()


def answered(exchange: Exchange) -> tuple[int | None, bytes | None]:
    return exchange.ending.status_code, exchange.response and exchange.response.body


@pytest.mark.parametrize("status", ["101", "102", "103", "104", "199", "099", "000", "1000", "999", "600"])
def test_an_interim_status_as_the_last_is_malformed(sender: Sender, status: str) -> None:
    exchange = sent_to(sender, says(b"HTTP/1.1 %s Odd\r\n" % status.encode(), EMPTY))
    assert exchange.ending.reason == "malformed_response"


@pytest.mark.parametrize("status", ["+200", "-200", "2_00", "0200", "2e2", "200.0", "20", "", "\xb2\xb0\xb0"])
def test_a_status_without_three_digits_is_malformed(sender: Sender, status: str) -> None:
    exchange = sent_to(sender, says(b"HTTP/1.1 %s\r\n" % status.encode("latin-1"), EMPTY))
    assert exchange.ending == AttemptResult(None, "malformed_response")


@pytest.mark.parametrize("version", ["HTTP/2.0", "HTTP/x", "HTTP/1", "HTTP/11", "HTTPS/1.1", "http/1.1", "ICY"])
def test_another_version_is_malformed(sender: Sender, version: str) -> None:
    exchange = sent_to(sender, says(version.encode(), b" 200 OK\r\n", EMPTY))
    assert exchange.ending == AttemptResult(None, "malformed_response")


@pytest.mark.parametrize("status", [b"100", b"102", b"103", b"104", b"199"])
def test_interim_responses_are_skipped(sender: Sender, status: bytes) -> None:
    interim = b"HTTP/1.1 " + status + b" Wait\r\nLink: </a>\r\n\r\n"
    exchange = sent_to(sender, says(interim * 3, WHOLE))
    assert answered(exchange) == (200, b"ok")
    assert exchange.response is not None
    assert "link" not in exchange.response.headers


def test_a_missing_final_response_is_a_timeout(sender: Sender) -> None:
    assert sent_to(sender, says_and_stays(b"HTTP/1.1 102 Wait\r\n\r\n"), timeout=0.05).ending == AttemptResult(
        None, "timeout"
    )


def test_a_switch_of_protocols_is_malformed(sender: Sender) -> None:
    exchange = sent_to(sender, says(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", WHOLE))
    assert exchange.ending == AttemptResult(101, "malformed_response")


@pytest.mark.parametrize(
    "line",
    [
        b"no colon",
        b"A B: c",
        b"Content-Length : 2",
        b": c",
        b"A: b\rContent-Length: 1",
        b"A: b\r",
        b"A: b\0c",
        b"A\0: b",
        b"Content-Length: 3",
        b"Content-Length: -2",
        b"Content-Length: 0x2",
        b"Content-Length: 1_0",
        b"Content-Length: " + b"9" * 5000,
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: identity",
    ],
)
@pytest.mark.parametrize("before", [b"", b"X: y\r\n"], ids=["first", "later"])
def test_an_ambiguous_header_is_malformed(sender: Sender, before: bytes, line: bytes) -> None:
    exchange = sent_to(sender, says(OK, before, line, b"\r\nContent-Length: 2\r\n\r\nok"))
    assert exchange.ending == AttemptResult(None, "malformed_response")


def test_a_folded_first_header_is_malformed(sender: Sender) -> None:
    assert sent_to(sender, says(OK, b"  folded\r\n", EMPTY)).ending == AttemptResult(None, "malformed_response")


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        (b"A: b\r\n  c", "a", "b c"),
        (b"A:", "a", ""),
        (b"A:\xe9", "a", "\xe9"),
        (b"A(b): c", "a(b)", "c"),
        (b"Content-Length: 2", "content-length", "2, 2"),
        (b"Content-Type: multipart/mixed", "content-type", "multipart/mixed"),
    ],
)
def test_a_header_that_is_only_odd_is_kept(sender: Sender, line: bytes, name: str, value: str) -> None:
    exchange = sent_to(sender, says(OK, line, b"\r\nContent-Length: 2\r\n\r\nok"))
    assert answered(exchange) == (200, b"ok")
    assert exchange.response is not None
    assert exchange.response.headers[name] == value


@pytest.mark.parametrize("lines", [WHOLE.replace(b"\r\n", b"\n"), b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok"])
def test_a_bare_newline_and_a_missing_reason_are_accepted(sender: Sender, lines: bytes) -> None:
    assert answered(sent_to(sender, says(lines))) == (200, b"ok")


@pytest.mark.parametrize("size", range(1, len(WHOLE)))
def test_a_truncated_response_never_succeeds(sender: Sender, size: int) -> None:
    ending = sent_to(sender, says(WHOLE[:size])).ending
    is_in_status = size < len(b"HTTP/1.1 200")
    assert ending == AttemptResult(None, "malformed_response" if is_in_status else "incomplete_response")


@pytest.mark.parametrize("count", [100, 101, 5_000])
def test_any_number_of_headers_is_read_up_to_64_kib(sender: Sender, count: int) -> None:
    exchange = sent_to(sender, says_and_stays(OK, b"X: y\r\n" * count, b"X-Last: z\r\nContent-Length: 2\r\n\r\nok"))
    assert answered(exchange) == (200, b"ok")
    no_content = sent_to(sender, says_and_stays(b"HTTP/1.1 204 No Content\r\n", b"X: y\r\n" * count, b"\r\n"))
    assert answered(no_content) == (204, b"")


@pytest.mark.parametrize("over", [0, 1])
def test_the_headers_take_64_kib_at_most(sender: Sender, over: int) -> None:
    line = b"X: " + b"x" * (65_536 - len(b"X: \r\nContent-Length: 2\r\n") + over) + b"\r\n"
    exchange = sent_to(sender, says_and_stays(OK, line, b"Content-Length: 2\r\n\r\nok"))
    assert exchange.ending.reason == (None if not over else "malformed_response")


@pytest.mark.parametrize("length", ["0" * 18 + "02", "0" * 5_000 + "2", "02, 2", "2,002"])
def test_leading_zeros_of_a_length_are_read(sender: Sender, length: str) -> None:
    exchange = sent_to(sender, says_and_stays(OK, b"Content-Length: %s\r\n\r\nok" % length.encode()))
    assert answered(exchange) == (200, b"ok")


@pytest.mark.parametrize("length", ["9" * 19, "1" * 5_000, "02, 3", "2 2", "0x2", "\xb2", "\xa02", "2\x0b"])
def test_an_absurd_length_is_malformed(sender: Sender, length: str) -> None:
    exchange = sent_to(sender, says_and_stays(OK, b"Content-Length: %s\r\n\r\nok" % length.encode("latin-1")))
    assert exchange.ending == AttemptResult(None, "malformed_response")


def test_a_coding_with_spaces_behind_it_is_read(sender: Sender) -> None:
    exchange = sent_to(sender, says_and_stays(OK, b"Transfer-Encoding: Chunked \r\n\r\n2\r\nok\r\n0\r\n\r\n"))
    assert answered(exchange) == (200, b"ok")


def test_trailers_take_64_kib_at_most(sender: Sender) -> None:
    exchange = sent_to(sender, says_and_stays(CHUNKED, b"0\r\n", b"X: y\r\n" * 11_000))
    assert exchange.ending == AttemptResult(None, "malformed_response")


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


SIZES = [b"-5", b"+5", b" 5", b" 5 ", b"\t5", b"0x5", b"0_5", b"5_0", b"", b";a", b"5 a", b"5,5", b"\xb2", b"5\0"]
TOO_LONG = [b"F" * 16, b"1" * 65_536, b"5;a" + b"a" * 65_536]


@pytest.mark.parametrize("size", [*SIZES, *TOO_LONG], ids=range(17))
def test_a_chunk_size_that_is_none_is_malformed_at_once(sender: Sender, size: bytes) -> None:
    exchange = sent_to(sender, says_and_stays(CHUNKED, size, b"\r\nhello\r\n", LAST))
    assert exchange.ending == AttemptResult(None, "malformed_response")


@pytest.mark.parametrize("size", [b"-0", b"+0", b" 0", b"0x0", b"0_0"])
def test_a_last_chunk_size_that_is_none_is_malformed(sender: Sender, size: bytes) -> None:
    exchange = sent_to(sender, says_and_stays(CHUNKED, b"2\r\nok\r\n", size, b"\r\n\r\n"))
    assert exchange.ending == AttemptResult(None, "malformed_response")


@pytest.mark.parametrize("end", [b"XX", b"X\r\n", b"\r", b"\rX"])
def test_a_chunk_longer_than_its_size_is_malformed(sender: Sender, end: bytes) -> None:
    exchange = sent_to(sender, says_and_stays(CHUNKED, b"2\r\nok", end, LAST))
    assert exchange.ending == AttemptResult(None, "malformed_response")


@pytest.mark.parametrize(
    "body",
    [
        b"2\r\nok\r\n0\r\n\r\n",
        b"2\nok\n0\n\n",
        b"00000000000000000002\r\nok\r\n0000\r\n\r\n",
        b"2;a=b;c\r\nok\r\n0;last\r\n\r\n",
        b'2 ; a="b;c"\r\nok\r\n0\r\n\r\n',
        b"2  \r\nok\r\n0\r\n\r\n",
        b"2;" + b"x" * 60_000 + b"\r\nok\r\n0\r\n\r\n",
        b"1\r\no\r\n1\r\nk\r\n0\r\nX-A: b\r\nX-C: d\r\n\r\n",
    ],
    ids=range(8),
)
def test_chunks_with_extensions_and_trailers_are_read(sender: Sender, body: bytes) -> None:
    assert answered(sent_to(sender, says_and_stays(CHUNKED, body))) == (200, b"ok")


CHUNKS = CHUNKED + b"2;a=b\r\nok\r\n0\r\n"


@pytest.mark.parametrize("size", range(len(CHUNKED), len(CHUNKS)))
def test_wherever_chunks_are_cut_off_it_is_incomplete(sender: Sender, size: int) -> None:
    assert sent_to(sender, says(CHUNKS[:size])).ending == AttemptResult(None, "incomplete_response")
