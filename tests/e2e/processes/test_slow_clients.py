"""Clients that take their time, or take too much: they hold up nobody, and are cut."""

from __future__ import annotations

import json
import os
import selectors
import socket
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import pytest

from support.asking import get, post
from support.place import Place
from traced_relay.config.settings import LEAST_THREADS
from traced_relay.testing import Downstream

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.whole

REPORTS = "reports@p.iam.gserviceaccount.com"
THREADS = 12
PATIENCE = 2.0
TICK = 0.1
PROBLEM = "application/problem+json"
HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"


def posting(path: str, *lines: str) -> bytes:
    return "\r\n".join(
        [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *lines, "", ""]
    ).encode()


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place whose relay runs."""
    with Downstream() as downstream:
        place = Place(tmp_path_factory.mktemp("serving"), downstream.url)
        with place.queue, place.relay(threads=THREADS):
            yield place


@contextmanager
def connections(place: Place, count: int, message: bytes) -> Iterator[list[socket.socket]]:
    with ExitStack() as opened:
        clients = [opened.enter_context(socket.create_connection(("127.0.0.1", place.port), 10)) for _ in range(count)]
        for client in clients:
            client.sendall(message)
        yield clients


def trickled(clients: list[socket.socket], seconds: float) -> dict[socket.socket, bytes]:
    """What each is told, while it sends a byte now and then; those that are told nothing in time are left out."""
    told: dict[socket.socket, bytes] = {}
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as waiting:
        for client in clients:
            waiting.register(client, selectors.EVENT_READ)
        while waiting.get_map() and time.monotonic() < deadline:
            for key, _ in waiting.select(TICK):
                client = next(client for client in clients if client is key.fileobj)
                told[client] = client.recv(10_000)
                waiting.unregister(client)
            for key in waiting.get_map().values():
                os.write(key.fd, b"x")
    return told


def answers_of(client: socket.socket, count: int = 1) -> list[tuple[int, str, Any]]:
    """Status, content type and document of the next answers on a connection."""
    with client.makefile("rb") as reader:
        return [_answer(reader) for _ in range(count)]


def _answer(reader: BinaryIO) -> tuple[int, str, Any]:
    status = int(reader.readline().split()[1])
    lines = [line.decode().strip().lower() for line in iter(reader.readline, b"\r\n")]
    headers = dict(line.split(": ", 1) for line in lines)
    content = reader.read(int(headers.get("content-length", "0")))
    return status, headers.get("content-type", ""), json.loads(content) if content else None


@pytest.mark.parametrize(
    "begun",
    [
        HEAD + b"X-A: ",
        posting("/v1/tasks", "Content-Length: 1000") + b'{"',
        posting("/dispatch", "Transfer-Encoding: chunked") + b"FFF\r\n",
    ],
    ids=["heads", "bodies", "chunks"],
)
def test_more_slow_clients_than_threads_stop_nobody_and_are_cut(
    place: Place, downstream: Downstream, begun: bytes
) -> None:
    who = place.bearer(REPORTS)
    with place.relay(threads=THREADS, patience=PATIENCE) as relay, connections(place, 2 * THREADS, begun) as clients:
        asked = time.monotonic()
        assert get(f"{place.url}/health").status == 200
        assert time.monotonic() - asked < 8
        answer = post(f"{place.url}/v1/tasks", {"url": f"{downstream.url}/reports"}, **who)
        assert relay.wait_for("task.finished", task_id=answer.document["task_id"])["state"] == "succeeded"
        told = trickled(clients, PATIENCE + 3)
        assert len(told) == len(clients)
        for text in told.values():
            assert text.startswith(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n")
            assert PROBLEM.encode() in text


def test_a_connection_that_says_nothing_is_closed_without_a_word(place: Place) -> None:
    with place.relay(threads=THREADS, patience=0.5), connections(place, 3, b"") as clients:
        assert [client.recv(100) for client in clients] == [b""] * 3


def is_alive(place: Place, seconds: float) -> bool:
    """Whether it says so within so many *seconds*."""
    with connections(place, 1, HEAD + b"\r\n") as (client,):
        client.settimeout(seconds)
        try:
            return client.recv(1000).startswith(b"HTTP/1.1 200 ")
        except TimeoutError:
            return False


def test_answers_that_nobody_takes_give_their_threads_back(place: Place) -> None:
    wanted = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000
    with place.relay(threads=LEAST_THREADS, patience=PATIENCE), ExitStack() as clients:
        for _ in range(LEAST_THREADS):
            client = clients.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", place.port))
            client.sendall(wanted)
        deadline = time.monotonic() + 20
        while is_alive(place, 1):  # until every thread waits for its answer to be taken
            assert time.monotonic() < deadline
        assert is_alive(place, 3 * PATIENCE)


def test_clients_that_do_not_close_stop_nobody(serving: Place) -> None:
    with connections(serving, 2 * THREADS, HEAD + b"Connection: close\r\n\r\n") as clients:
        asked = time.monotonic()
        assert {answers_of(client)[0][0] for client in clients} == {200}
        assert get(f"{serving.url}/health").status == 200
        assert time.monotonic() - asked < 8  # under two; how long it is, the benches tell


@pytest.mark.parametrize(
    ("head", "piece", "pieces"),
    [
        ("Content-Length: 900001", b"", 0),
        ("Content-Length: 900001", b"x" * 900_001, 1),
        ("Content-Length: 900000", b"x" * 9_000, 100),
        ("Transfer-Encoding: chunked", b"2328\r\n" + b"x" * 9_000 + b"\r\n", 100),
        ("Transfer-Encoding: chunked", b"F4240\r\n" + b"x" * 1_000_000 + b"\r\n0\r\n\r\n", 1),
    ],
    ids=["announced", "sent at once", "in pieces", "in chunks", "in one chunk"],
)
def test_a_request_over_900_kb_is_a_413(serving: Place, head: str, piece: bytes, pieces: int) -> None:
    authorization = f"Authorization: {serving.bearer(REPORTS)['Authorization']}"
    with connections(serving, 1, posting("/v1/tasks", head, authorization)) as (client,):
        for _ in range(pieces):
            client.sendall(piece)
        ((status, kind, document),) = answers_of(client)
    assert (status, kind, document["status"]) == (413, PROBLEM, 413)


def test_a_head_that_does_not_end_is_refused(serving: Place) -> None:
    with connections(serving, 1, HEAD + b"X: " + b"x" * 140_000) as (client,):
        ((status, kind, _),) = answers_of(client)
    assert (status, kind) == (431, PROBLEM)


def test_chunks_pipelines_and_expect_100_continue_are_understood(place: Place, downstream: Downstream) -> None:
    call = json.dumps({"url": f"{downstream.url}/reports"}).encode()
    authorization = f"Authorization: {place.bearer(REPORTS)['Authorization']}"
    chunked = posting("/v1/tasks", "Transfer-Encoding: chunked", authorization)
    in_chunks = chunked + b"5\r\n" + call[:5] + b"\r\n%x\r\n" % len(call[5:]) + call[5:] + b"\r\n0\r\nX-T: 1\r\n\r\n"
    expecting = posting("/v1/tasks", f"Content-Length: {len(call)}", "Expect: 100-continue", authorization)
    health = HEAD + b"\r\n"
    with place.relay(threads=THREADS), connections(place, 1, in_chunks + health + health + expecting) as (client,):
        assert [status for status, _, _ in answers_of(client, 4)] == [202, 200, 200, 100]
        client.sendall(call + HEAD)
        client.sendall(b"\r\n")
        assert [status for status, _, _ in answers_of(client, 2)] == [202, 200]


def test_the_server_waits_while_no_file_can_be_opened(place: Place) -> None:
    with place.relay(threads=THREADS, patience=PATIENCE, files=60) as relay:
        with connections(place, 150, HEAD):
            relay.wait_for_line("cannot accept a connection: Too many open files")
            before = relay.cpu_seconds()
            assert get(f"{place.url}/health").status == 200
            assert relay.cpu_seconds() - before < 1
        assert get(f"{place.url}/health").status == 200
        assert len(relay.said("relay.started")) == 1
