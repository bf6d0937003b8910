"""A closed loop of HTTP/1.1 clients in one thread: each sends its next request after a complete response."""

from __future__ import annotations

import re
import select
import socket
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NoReturn, Protocol

from bench.figures import Sample, sample

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
PATIENCE = 20.0  # seconds without any answer


class BadAnswer(Exception):
    """A server sent an unexpected status, or no response."""


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """The bytes of a request; `_` in the names of *headers* stands for `-`."""
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Listening(Protocol):
    """A server whose processor time can be read."""

    port: int

    def cpu_seconds(self) -> float: ...


class Client:
    def __init__(self, port: int, status: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._expected = b"HTTP/1.1 %d" % status
        self._buffer = b""
        self.sent_at = 0.0

    def send(self, message: bytes) -> None:
        self.sent_at = time.perf_counter()
        self.socket.sendall(message)

    def receive(self) -> bool:
        """Whether the response is complete."""
        got = self.socket.recv(65536)
        if not got:
            self._refuse("closed: ")
        self._buffer += got
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return False
        length = _LENGTH.search(head)
        if length is None or not head.startswith(self._expected):
            self._refuse("")
        if len(body) < int(length[1]):
            return False
        self._buffer = b""
        return True

    def await_answer(self) -> None:
        while not self.receive():
            pass

    def _refuse(self, why: str) -> NoReturn:
        raise BadAnswer(why + self._buffer[:2000].decode(errors="replace"))


@contextmanager
def one_client(port: int, status: int) -> Iterator[Client]:
    client = Client(port, status)
    try:
        yield client
    finally:
        client.socket.close()


def run(server: Listening, clients: int, requests: Iterable[bytes], *, status: int, seconds: float = 60.0) -> Sample:
    """Send *requests* from so many clients until there are no more or the time is over."""
    with ExitStack() as open_ones:
        opened = [open_ones.enter_context(one_client(server.port, status)) for _ in range(clients)]
        before = server.cpu_seconds()
        latencies, took = _run(opened, requests, seconds)
        return sample(latencies, seconds=took, cpu=server.cpu_seconds() - before)


def _run(opened: list[Client], requests: Iterable[bytes], seconds: float) -> tuple[list[float], float]:
    """The latencies, and how many seconds all of it took."""
    upcoming = iter(requests)
    by_number = {client.socket.fileno(): client for client in opened}
    latencies: list[float] = []
    with select.epoll() as poll:
        for number in by_number:
            poll.register(number, select.EPOLLIN)
        started = time.perf_counter()
        deadline = started + seconds
        busy = sum(_send_next(client, upcoming) for client in opened)
        while busy:
            ready = poll.poll(PATIENCE)
            if not ready:
                raise BadAnswer("no answer in time")
            for number, _ in ready:
                client = by_number[number]
                if client.receive():
                    now = time.perf_counter()
                    latencies.append(now - client.sent_at)
                    if now > deadline or not _send_next(client, upcoming):
                        busy -= 1
        return latencies, time.perf_counter() - started


def _send_next(client: Client, upcoming: Iterable[bytes]) -> bool:
    for message in upcoming:
        client.send(message)
        return True
    return False
