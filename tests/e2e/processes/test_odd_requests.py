"""Requests that break HTTP, as no client library sends them: one clear answer, and nothing behind them is read."""

from __future__ import annotations

import json
import re
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from support.place import Place, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.relay_process import RelayProcess

pytestmark = pytest.mark.whole

BODY = b'{"url": "http://127.0.0.1:9/"}'
BEHIND = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("odd"), "http://127.0.0.1:9")
    with made.queue, made.relay():
        yield made


@pytest.fixture(scope="module")
def token(place: Place) -> bytes:
    return place.bearer("other@p.iam.gserviceaccount.com")["Authorization"].encode()


def said(place: Place | RelayProcess, sent: bytes) -> list[tuple[int, bytes, bytes]]:
    """Status, head and body of every answer until the relay closes, or says nothing more."""
    answers = []
    with socket.create_connection(("127.0.0.1", place.port), timeout=5) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        heard = b""
        while got := connection.recv(65_536):
            heard += got
    while heard:
        head, _, rest = heard.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        assert length is not None, head
        answers.append((int(head.split()[1]), head, rest[: int(length[1])]))
        heard = rest[int(length[1]) :]
    return answers


def posted(token: bytes, headers: bytes, body: bytes, path: bytes = b"/v1/tasks") -> bytes:
    head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nAuthorization: %b\r\nContent-Type: application/json\r\n"
    return head % (path, token) + headers + b"\r\n" + body


CHUNKS = [
    b"ZZ\r\n%b\r\n0\r\n\r\n",
    b"0x1e\r\n%b\r\n0\r\n\r\n",
    b"-1\r\n%b\r\n0\r\n\r\n",
    b"+1e\r\n%b\r\n0\r\n\r\n",
    b" 1e\r\n%b\r\n0\r\n\r\n",
    b"1_e\r\n%b\r\n0\r\n\r\n",
    b"\r\n%b\r\n0\r\n\r\n",
    b"1e\r\n%bXX0\r\n\r\n",
    b"1e;" + b"x" * 100_000 + b"\r\n%b\r\n0\r\n\r\n",
    b"1e\r\n%b\r\n0\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
    b"1e\r\n%b\r\n0\r\nContent-Length: 5\r\n\r\n",
    b"FFFFFFFFFFFFFFFFFFFF\r\n%b\r\n0\r\n\r\n",
]


@pytest.mark.parametrize("path", [b"/v1/tasks", b"/v1/tasks:batch"])
@pytest.mark.parametrize("chunks", CHUNKS, ids=range(len(CHUNKS)))
def test_invalid_chunks_are_a_problem_and_end_the_connection(
    place: Place, token: bytes, chunks: bytes, path: bytes
) -> None:
    answers = said(place, posted(token, CHUNKED, chunks % BODY, path) + BEHIND)
    assert [status for status, _, _ in answers] in ([400], [413])
    assert b"application/problem+json" in answers[0][1]


HEADS = {
    "two lengths": (b"Content-Length: 30\r\nContent-Length: 31\r\n", 400),
    "a length and chunks": (b"Content-Length: 30\r\n" + CHUNKED, 400),
    "a folded line": (b"X: y\r\n z\r\nContent-Length: 30\r\n", 400),
    "a name with a space": (b"X y: z\r\nContent-Length: 30\r\n", 400),
    "another coding": (b"Transfer-Encoding: rot13\r\n", 501),
    "more headers than anybody has": (b"X: y\r\n" * 200, 431),
}


@pytest.mark.parametrize("name", HEADS)
def test_an_invalid_head_is_a_problem_and_ends_the_connection(place: Place, token: bytes, name: str) -> None:
    headers, expected = HEADS[name]
    answers = said(place, posted(token, headers, BODY) + BEHIND)
    assert [status for status, _, _ in answers] == [expected]
    if expected != 202:
        (_, head, body) = answers[0]
        assert (b"application/problem+json" in head, json.loads(body)["status"]) == (True, expected)


@pytest.mark.parametrize(
    ("target", "hosts", "expected"),
    [
        (b"/v1/tasks", b"", 400),
        (b"/v1/tasks", b"Host: localhost\r\nHost: localhost\r\n", 400),
        (b"/v1/tasks", b"Host: a b\r\n", 400),
        (b"http://localhost/v1/tasks", b"", 400),
        (b"http://elsewhere.example/v1/tasks", b"Host: localhost\r\n", 403),
        (b"http://localhost/v1/tasks", b"Host: elsewhere.example\r\n", 202),
    ],
)
def test_the_host_is_one_and_an_absolute_target_decides(
    place: Place, token: bytes, target: bytes, hosts: bytes, expected: int
) -> None:
    sent = posted(token, hosts + b"Content-Length: 30\r\nConnection: close\r\n", BODY, target)
    assert [status for status, _, _ in said(place, sent.replace(b"Host: localhost\r\n", b"", 1))] == [expected]


def test_nobody_says_under_which_path_or_scheme_the_relay_is_reached(place: Place, token: bytes) -> None:
    def status(headers: bytes, path: bytes = b"/v1/tasks") -> int:
        return said(place, posted(token, headers + b"Content-Length: 30\r\nConnection: close\r\n", BODY, path))[0][0]

    plain = status(b"")
    assert status(b"Script_Name: /x\r\n") == plain
    assert status(b"SCRIPT-NAME: /v1\r\n") == plain
    assert status(b"Script_Name: /zz\r\n", b"/zz/v1/tasks") == 404
    assert status(b"X-Forwarded-Proto: http\r\nX-Forwarded-Ssl: on\r\n") == plain


REFUSED = [
    (b"GET /v1/tasks?label.k=SECRET\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    (b"GET /v1/tasks?label.k=SECRET\r\nHost: localhost\r\n\r\n", 400),
    (b"GET /v1/tasks?label.k=SECRET x HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    (b"GET /v1/tasks HTTP/1.1\r\nHost: localhost\r\nAuthorization : Bearer SECRET\r\n\r\n", 400),
    (b"GET /v1/tasks HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer\r\n SECRET\r\n\r\n", 400),
    (b"GET /v1/tasks HTTP/1.1\r\nHost: localhost\r\nBearer SECRET\r\n\r\n", 400),
    (b"GET /v1/tasks HTTP/1.1\r\nHost: localhost\r\nCookie SECRET: x\r\n\r\n", 400),
    (b"GET /v1/tasks HTTP/1.1\r\nHost: SECRET/x\r\n\r\n", 400),
    (b"GET /v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: SECRET\r\n\r\n", 400),
    (b"GET /v1/tasks HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: SECRET\r\n\r\n", 501),
    (b"GET /v1/tasks HTTP/1.1\r\nHost: localhost\r\nExpect: SECRET\r\n\r\n", 417),
    (b"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\n" + CHUNKED + b"\r\nSECRET\r\n\r\n", 401),
    (b'{"url":"http://x/?SECRET"}\r\n\r\n', 400),
    (b"SECRETS / HTTP/1.1\r\nHost: localhost\r\nX y: z\r\n\r\n", 400),
    (b"GET / HTTP/SECRET\r\nHost: localhost\r\n\r\n", 400),
    (b"GET /" + b"SECRET" * 2000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
    (b"GET /v1/tasks%3Fk=SECRET HTTP/1.1\r\nHost: localhost\r\n\r\n", 401),
    (b"GET /v1/tasks;k=SECRET HTTP/1.1\r\nHost: localhost\r\n\r\n", 401),
    (b"GET /v1/tasks?k=SECRET HTTP/1.1\r\nHost: localhost\r\n\r\n", 401),
]


def test_the_log_quotes_nothing_of_a_refused_request(place: Place) -> None:
    with place.relay(free_port()) as relay:
        statuses = [said(relay, sent)[0][0] for sent, _ in REFUSED]
        relay.end(signal.SIGTERM)
    logged = json.dumps([relay.records, relay.torn])
    assert statuses == [status for _, status in REFUSED]
    assert "SECRET" not in logged
    assert "a request from 127.0.0.1 was refused with 400: the request line must be METHOD TARGET HTTP/1.1" in logged
    assert "GET /v1/tasks: an ID token is required" in logged
