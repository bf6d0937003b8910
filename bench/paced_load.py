"""HTTP/1.1 requests at a steady rate, independent of earlier responses."""

from __future__ import annotations

import select
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from bench.figures import Sample, sample
from bench.http_load import PATIENCE, BadAnswer, Client, one_client

if TYPE_CHECKING:
    from collections.abc import Iterable


def run(port: int, requests: Iterable[bytes], *, status: int, per_second: float) -> Sample:
    """
    The latencies of *requests*, each counted from the moment it was due.

    So a server that stalls pays for all that should have been sent meanwhile.
    """
    with ExitStack() as opened, select.epoll() as poll:
        under_way = _UnderWay(poll)
        started = time.perf_counter()
        for place, message in enumerate(requests):
            due = started + place / per_second
            while (left := due - time.perf_counter()) > 0:
                under_way.take_answers(left)
            client = under_way.idle.pop() if under_way.idle else opened.enter_context(one_client(port, status))
            under_way.send(client, message, due)
        while under_way.busy:
            if not under_way.take_answers(PATIENCE):
                raise BadAnswer("no answer in time")
        return sample(under_way.latencies)


class _UnderWay:
    def __init__(self, poll: select.epoll) -> None:
        self._poll = poll
        self.idle: list[Client] = []
        self.busy: dict[int, tuple[Client, float]] = {}
        self.latencies: list[float] = []

    def send(self, client: Client, message: bytes, due: float) -> None:
        client.send(message)
        self.busy[client.socket.fileno()] = client, due
        self._poll.register(client.socket.fileno(), select.EPOLLIN)

    def take_answers(self, seconds: float) -> bool:
        """Wait so long for something to read; whether there was."""
        ready = self._poll.poll(seconds)
        for number, _ in ready:
            client, due = self.busy[number]
            if client.receive():
                self.latencies.append(time.perf_counter() - due)
                self._poll.unregister(number)
                self.idle.append(client)
                del self.busy[number]
        return bool(ready)
