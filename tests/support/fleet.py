"""Several relays over one ledger and a queue, all of them processes, and somebody who kills them at random."""

from __future__ import annotations

import os
import signal
from collections import Counter
from contextlib import suppress
from random import Random
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any, Self

from support.asking import ask, get, post
from support.place import AUDIENCE, free_port, minted
from support.queue_process import QueueProcess
from support.relay_process import RelayProcess
from support.spreader import Spreader

if TYPE_CHECKING:
    from pathlib import Path

LOCATION = "projects/test-project/locations/us-central1"
CALLER = "operator@p.iam.gserviceaccount.com"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
RULES = f"""
location: us-central1
queues:
  - {{name: relay}}
  - {{name: relay-callbacks, for: callbacks}}
worker: {{app_engine: default}}
audience: {AUDIENCE}
callers: [{{email: {CALLER}, queues: "*", downstreams: "*", role: operator}}]
downstreams:
  - {{name: plain, url: "http://127.0.0.1:*/", auth: none, allow_private: true}}
  - {{name: tls, url: "https://127.0.0.1:*/", auth: none, allow_private: true}}
callbacks: [{{url: "http://127.0.0.1:*/", allow_private: true}}]
callback_first_wait: 0.5s
sweep_every: 1s
"""
# As setup makes the queues, only in a hurry.
RETRIES = {"maxAttempts": -1, "maxRetryDuration": "0s", "minBackoff": "0.2s", "maxBackoff": "2s"}


class Fleet:
    """*url* leads to any of the relays; who is killed is decided by *random*."""

    def __init__(
        self,
        directory: Path,
        size: int,
        ledger: str,
        *,
        random: Random | None = None,
        more: dict[str, str] | None = None,
    ) -> None:
        self._random = random or Random(0)
        self._ledger = ledger
        self._environ = (more or {}) | {"RELAY_CALLBACK_SECRET": SECRET}
        self._config = directory / "relay.yaml"
        self._config.write_text(RULES)
        self._spreader = Spreader(self._ports)
        self.url = self._spreader.url
        self._options = (f"--data={directory / 'queue.db'}", f"--app-engine=default={self.url}")
        self.queue = QueueProcess(*self._options)
        self._add_queues()
        self.token = {"Authorization": f"Bearer {minted(self.queue.address, CALLER)}"}
        self.relays = [self._relay() for _ in range(size)]
        self._frozen: RelayProcess | None = None
        self._past: list[RelayProcess] = []
        self._lock = Lock()
        self._restarting = Thread()
        self.kills: Counter[str] = Counter()
        self.fallen = 0

    def _add_queues(self) -> None:
        for name in ("relay", "relay-callbacks"):
            document = {"name": f"{LOCATION}/queues/{name}", "retryConfig": RETRIES}
            assert post(f"{self.queue.rest_url}/v2/{LOCATION}/queues", document).status == 200

    def _ports(self) -> list[int]:
        """Of those that answer: a front end sees soon who does not."""
        return [relay.port for relay in self._lively()]

    def _relay(self) -> RelayProcess:
        return RelayProcess(
            config=self._config,
            ledger=self._ledger,
            emulator=self.queue.address,
            port=free_port(),
            threads=60,
            is_awaited=False,
            **self._environ,
        )

    def storm(self, seconds: float, shortest: float, longest: float) -> None:
        """Kill somebody every so often until the time is up; freeze one for most of that time."""
        over = Event()
        end = Thread(target=over.wait, args=(seconds,))
        end.start()
        freezing = Thread(target=over.wait, args=(seconds / 5,))
        freezing.start()
        while end.is_alive() and not over.wait(self._random.uniform(shortest, longest)):
            self._strike()
            self.raise_fallen()
            if self._frozen is None and not freezing.is_alive():
                self._freeze()
        end.join()
        self._thaw()
        if self._restarting.is_alive():
            self._restarting.join(60)

    def _freeze(self) -> None:
        relay = self._random.choice(self.relays)
        with suppress(ProcessLookupError, IndexError):
            os.kill(relay.workers()[0], signal.SIGSTOP)
            self._frozen = relay

    def _thaw(self) -> None:
        if self._frozen is not None:
            os.kill(self._frozen.workers()[0], signal.SIGCONT)
            self._frozen = None

    def enqueue(self, url: str, **fields: Any) -> str:
        """The task_id of a call that was accepted."""
        answer = post(f"{self.url}/v1/tasks", {"url": url} | fields, **self.token)
        assert answer.status == 202, answer.document
        return str(answer.document["task_id"])

    def document(self, task_id: str) -> dict[str, Any]:
        found: dict[str, Any] = get(f"{self.url}/v1/tasks/{task_id}", **self.token).document
        return found

    def _strike(self) -> None:
        """A worker mostly, as a machine that runs out of memory does; else a whole relay, or the queue."""
        chosen = self._random.random()
        if chosen < 0.1:
            self._strike_queue()
        elif chosen < 0.2:
            self.replace(self.relays.index(self._random.choice(self._lively())))
        else:
            self._strike_worker()

    def _strike_worker(self) -> None:
        workers = [pid for relay in self._lively() for pid in relay.workers()]
        with suppress(ProcessLookupError, IndexError):
            os.kill(self._random.choice(workers), signal.SIGKILL)
            self.kills["worker"] += 1

    def _lively(self) -> list[RelayProcess]:
        return [relay for relay in self.relays if relay is not self._frozen]

    def replace(self, number: int) -> None:
        """Kill a relay and start another one in its place."""
        with self._lock:
            struck = self.relays[number]
            if struck.is_alive():
                struck.kill()
                self.kills["relay"] += 1
            self._past.append(struck)
            self.relays[number] = self._relay()

    def _strike_queue(self) -> None:
        if self._restarting.is_alive():
            return
        self.queue.send(signal.SIGKILL)
        self.kills["queue"] += 1
        self._restarting = Thread(target=self._restart_queue)
        self._restarting.start()

    def _restart_queue(self) -> None:
        self.queue = QueueProcess(*self._options, port=self.queue.port, rest_port=self.queue.rest_port)

    def run_now(self, queue: str, task: str) -> int:
        """Have the queue dispatch a task before its time."""
        return ask("POST", f"{self.queue.rest_url}/v2/{LOCATION}/queues/{queue}/tasks/{task}:run").status

    def raise_fallen(self) -> None:
        """Start anew what has ended by itself, as a platform does."""
        for number, relay in enumerate(self.relays):
            if not relay.is_alive():
                self.fallen += 1
                self.replace(number)

    def records(self) -> list[dict[str, Any]]:
        with self._lock:
            return [record for relay in (*self._past, *self.relays) for record in list(relay.records)]

    def torn(self) -> list[str]:
        return [line for relay in (*self._past, *self.relays) for line in relay.torn]

    def __enter__(self) -> Self:
        self._spreader.__enter__()
        for relay in self.relays:
            relay.wait_for("relay.started", 40)
        return self

    def __exit__(self, *_: object) -> None:
        for relay in self.relays:
            relay.__exit__()
        if self._restarting.is_alive():
            self._restarting.join(60)
        self.queue.__exit__()
        self._spreader.__exit__()
