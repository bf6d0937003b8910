"""A worker for tasks: a real HTTP server that remembers what arrives and answers as it is told."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from threading import Condition
from typing import TYPE_CHECKING, Self

from werkzeug.wrappers import Request, Response

from traced_relay.runtime.listener import Listener

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment


@dataclass(frozen=True)
class Arrival:
    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes


class Worker:
    """Answers with *statuses* one after the other, then with 200."""

    def __init__(self, *statuses: int) -> None:
        self.arrivals: list[Arrival] = []
        self._tasks: Counter[str] = Counter()
        self._statuses = list(statuses)
        self._arrived = Condition()
        self._listener = Listener(self)
        self.url = self._listener.url

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        headers = {name.lower(): value for name, value in request.headers.items()}
        arrival = Arrival(request.method, request.full_path.rstrip("?"), headers, request.get_data())
        with self._arrived:
            self.arrivals.append(arrival)
            self._tasks[headers.get("x-cloudtasks-taskname", "")] += 1
            status = self._statuses.pop(0) if self._statuses else 200
            self._arrived.notify_all()
        return Response("", status)(environ, start_response)

    def wait_for(self, count: int, seconds: float = 10) -> list[Arrival]:
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.arrivals) >= count, seconds), (
                f"{len(self.arrivals)} of {count} arrived"
            )
            return list(self.arrivals)

    def wait_for_all(self, tasks: set[str], seconds: float) -> Counter[str]:
        """How often each task arrived, once all of *tasks* have."""
        with self._arrived:
            self._arrived.wait_for(lambda: tasks <= self._tasks.keys(), seconds)
            return self._tasks.copy()

    def __enter__(self) -> Self:
        self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.stop()
