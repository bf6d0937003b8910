"""
An embedded Cloud Tasks: the API over gRPC and REST, optional storage on disk, delivery over real HTTP.

Clock and random numbers are arguments.
"""

from __future__ import annotations

import random as randomness
from contextlib import ExitStack, closing
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import grpc

from traced_relay.emulator import messages as m
from traced_relay.emulator.dispatcher import Dispatcher
from traced_relay.emulator.errors import ApiError
from traced_relay.emulator.grpc_server import grpc_server
from traced_relay.emulator.id_tokens import ReusedTokens, Signer
from traced_relay.emulator.methods import METHODS
from traced_relay.emulator.resource_names import check_queue
from traced_relay.emulator.rest_server import RestApp
from traced_relay.emulator.service import Service
from traced_relay.emulator.store import Store
from traced_relay.runtime.clock import Clock, SystemClock
from traced_relay.runtime.listener import Listener
from traced_relay.runtime.sockets import address_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_SYSTEM_CLOCK = SystemClock()
_KEY = "signing-key"


class LocalQueue:
    """
    The embedded queue.

    *app_engine* maps App Engine services to URLs; `default` serves those that are not named. With *data*
    acknowledged tasks, and the key that signs ID tokens, survive the process. Once it runs, *address* is the value of
    `CLOUD_TASKS_EMULATOR_HOST`: host and port of gRPC.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        rest_port: int = 0,
        data: Path | None = None,
        app_engine: Mapping[str, str] = MappingProxyType({}),
        clock: Clock = _SYSTEM_CLOCK,
        random: Callable[[], float] = randomness.random,
    ) -> None:
        self._host, self._port, self._rest_port = host, port, rest_port
        self._clock = clock
        self._app_engine = dict(app_engine)
        self._running = ExitStack()
        store = self._running.enter_context(closing(Store(data))) if data else None
        self._signer = _signer(store)
        self.service = Service(clock, store, random)

    def start(self) -> Self:
        with self._running as running:
            self._rest = Listener(host=self._host, port=self._rest_port)
            running.callback(self._rest.stop)
            port = running.enter_context(
                grpc_server(
                    self.service,
                    mint=self.token,
                    certificates=self._signer.certificates,
                    host=self._host,
                    port=self._port,
                )
            )
            self.address = address_of(self._host, port)
            self._rest.start(RestApp(self.service, self._signer, self.rest_url))
            mint = ReusedTokens(self.token, self._clock).get
            dispatcher = Dispatcher(self.service, self._clock, mint=mint, app_engine=self._app_engine)
            dispatcher.start()
            running.callback(dispatcher.stop)
            self._running = running.pop_all()
        return self

    def stop(self) -> None:
        self._running.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def rest_url(self) -> str:
        return self._rest.url

    def add_queue(self, name: str, **fields: Any) -> None:
        """Create the queue with this full *name* unless it exists; *fields* are those of the Queue message."""
        check_queue(name)
        location = name.rpartition("/queues/")[0]
        request = METHODS["CreateQueue"].request(parent=location, queue=m.Queue(name=name, **fields))
        try:
            self.service.call("CreateQueue", request)
        except ApiError as exc:
            if exc.code is not grpc.StatusCode.ALREADY_EXISTS:
                raise

    def call(self, method: str, name: str) -> None:
        """Call a *method* that takes only a full *name*: `PauseQueue`, `RunTask`, …"""
        self.service.call(method, METHODS[method].request(name=name))

    def route_app_engine(self, service: str, url: str) -> None:
        """Send App Engine tasks for *service* to *url* from now on."""
        self._app_engine[service] = url

    def token(self, email: str, audience: str) -> str:
        """An ID token for the account *email*, signed by this queue's key."""
        return self._signer.mint(email, audience, issuer=self.rest_url, now=self._clock.now())

    def wait_until_idle(self, seconds: float) -> bool:
        return self.service.wait_until_idle(seconds)


@cache
def _shared_signer() -> Signer:
    """One key for all queues in memory, since generating it takes longer than the rest of a start."""
    return Signer.generate()


def _signer(store: Store | None) -> Signer:
    if store is None:
        return _shared_signer()
    if pem := store.secret(_KEY):
        return Signer.from_pem(pem)
    signer = Signer.generate()
    store.save_secret(_KEY, signer.pem)
    return signer
