"""What a storm's tasks are to meet: downstreams whose path says how they behave, and a receiver of callbacks."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from socket import SHUT_RDWR, socket
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, Self

from werkzeug.wrappers import Request, Response

from traced_relay.runtime.listener import Listener

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

QUICK = {"max_attempts": 12, "min_backoff": "0.1s", "max_backoff": "1s"}
LOST = {"worker_lost", "interrupted"}  # what a kill may make of any task that is not idempotent, or dies too often


@dataclass(frozen=True)
class Fate:
    """
    One kind of task: where it goes, how it is asked for, and with which reasons it may end.

    None among *reasons* is a success.
    """

    name: str
    share: int
    reasons: frozenset[str | None]
    asked: dict[str, Any] = field(default_factory=dict)
    verb: str | None = None

    @property
    def path(self) -> str:
        return self.name.partition("-")[0]


def _fate(name: str, share: int, *reasons: str | None, verb: str | None = None, **asked: Any) -> Fate:
    return Fate(name, share, frozenset(reasons) | LOST, {"retry": QUICK} | asked, verb)


FATES = [
    _fate("success", 20, None),
    _fate("success-idempotent", 20, None, idempotent=True),
    _fate("flaky", 14, None),
    _fate("reset", 6, "reset"),
    _fate("reset-idempotent", 8, None, idempotent=True),
    _fate("slow", 4, None),
    _fate("slow-idempotent", 8, None, idempotent=True),
    _fate("missing", 6, "http_404"),
    _fate("missing-redriven", 6, "http_404", verb="redrive"),
    _fate("hang", 4, "timeout", timeout="1s", idempotent=True, retry=QUICK | {"max_attempts": 2}),
    _fate("success-cancelled", 5, None, "cancelled", delay="15s", verb="cancel"),
    _fate("slow-cancelled", 5, None, "cancelled", idempotent=True, verb="cancel"),
]


class Downstreams:
    """
    `/flaky` is busy twice, `/reset` hangs up twice, then both answer; `/slow` takes 1 to 3 s, `/hang` longer than that.

    The bodies that came are kept by `Idempotency-Key`; how many there are is how often.
    """

    def __init__(self) -> None:
        self.calls: defaultdict[str, list[bytes]] = defaultdict(list)
        self._lock = Lock()
        self._over = Event()
        self._listener = Listener(self._answer)
        self.url = self._listener.url

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        task_id = request.headers.get("Idempotency-Key", "")
        with self._lock:
            self.calls[task_id].append(request.get_data())
            came = len(self.calls[task_id])
        status = self._status(request.path, task_id, came, environ["werkzeug.socket"])
        return Response("", status)(environ, start_response)

    def _status(self, path: str, task_id: str, came: int, connection: socket) -> int:
        match path:
            case "/flaky" if came < 3:
                return 503
            case "/reset" if came < 3:
                connection.shutdown(SHUT_RDWR)  # nothing of the answer will get through
            case "/slow":
                self._over.wait(1 + int(task_id[:2], 16) / 128)
            case "/hang":
                self._over.wait(4)
            case "/missing":
                return 404
        return 200

    def __enter__(self) -> Self:
        self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._listener.stop()


@dataclass(frozen=True)
class Told:
    """A callback as it came, and what was answered."""

    headers: dict[str, str]
    body: bytes
    status: int


class Receiver:
    """Takes callbacks; refuses a quarter of them once. What came is kept by its `webhook-id`."""

    def __init__(self) -> None:
        self.told: defaultdict[str, list[Told]] = defaultdict(list)
        self._lock = Lock()
        self._listener = Listener(self._answer)
        self.url = self._listener.url

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        headers = {name.lower(): value for name, value in request.headers.items()}
        webhook_id = headers.get("webhook-id", "0")
        with self._lock:
            is_first = not self.told[webhook_id]
            status = 503 if is_first and int(webhook_id[0], 16) < 4 else 204
            self.told[webhook_id].append(Told(headers, request.get_data(), status))
        return Response(status=status)(environ, start_response)

    def __enter__(self) -> Self:
        self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.stop()
