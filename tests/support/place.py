"""A queue process, room for relay processes beside it, and tokens from the queue's key."""

from __future__ import annotations

import socket
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

from support.queue_process import QueueProcess
from support.relay_process import SERVE, RelayProcess

if TYPE_CHECKING:
    from pathlib import Path

    from support.firestore_emulator import FirestoreEmulator

QUEUE = "projects/test-project/locations/us-central1/queues/relay"
AUDIENCE = "https://relay.example.com"
QUEUE_ACCOUNT = "queue@p.iam.gserviceaccount.com"
RULES = """
location: us-central1
queues:
  - {{name: relay}}
  - {{name: spare}}
worker: {worker}
audience: {audience}
callers:
  - {{email: reports@p.iam.gserviceaccount.com, queues: [relay], downstreams: [reports]}}
  - {{email: other@p.iam.gserviceaccount.com, queues: "*", downstreams: "*"}}
  - {{email: oncall@example.com, role: operator}}
downstreams:
  - {{name: reports, url: "{url}/reports", auth: none, allow_private: true}}
  - {{name: rest, url: "{url}/", auth: none, allow_private: true}}
"""

_SERVE = """
from traced_relay.server.production import serve
from traced_relay.config.settings import from_environment
serve(from_environment(), client_timeout={patience})
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def minted(queue: str, email: str, audience: str = AUDIENCE) -> str:
    """An ID token, signed by the key of the queue at that address."""
    host, port = queue.split(":")
    command = [sys.executable, "-m", "traced_relay", "queue", "token", email, f"--audience={audience}"]
    ran = subprocess.run([*command, f"--host={host}", f"--port={port}"], capture_output=True, text=True, check=True)
    return ran.stdout.strip()


class Place:
    """
    Everything a relay process needs; tasks go to it through App Engine's door unless *by_token*.

    They are kept in a file, or in the Firestore emulator *firestore*.
    """

    def __init__(
        self, directory: Path, url: str, *, by_token: bool = False, firestore: FirestoreEmulator | None = None
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._queue_options = (
            f"--queue={QUEUE}",
            f"--app-engine=default={self.url}",
            f"--data={directory / 'queue.db'}",
        )
        self.queue = QueueProcess(*self._queue_options)
        worker = f"{{url: {self.url}, service_account: {QUEUE_ACCOUNT}}}" if by_token else "{app_engine: default}"
        self._config = directory / "relay.yaml"
        self._config.write_text(RULES.format(audience=AUDIENCE, url=url, worker=worker))
        self._ledger = f"sqlite:{directory / 'ledger.db'}"
        self._surroundings: dict[str, str] = {}
        if firestore is not None:
            self._ledger = f"firestore:traced-relay/calls-{uuid.uuid4().hex}"
            self._surroundings = {"FIRESTORE_EMULATOR_HOST": firestore.host}

    def restart_queue(self) -> None:
        """Again on the same ports, with what the one before had acknowledged."""
        self.queue = QueueProcess(*self._queue_options, port=self.queue.port, rest_port=self.queue.rest_port)

    def relay(
        self, port: int | None = None, *, threads: int = 100, patience: float | None = None, files: int | None = None
    ) -> RelayProcess:
        """
        The relay that gets the tasks, or at another *port* a second one on the same ledger.

        With *patience* as short as a test wants it, and so many *files* open at once.
        """
        command = list(SERVE) if patience is None else [sys.executable, "-c", _SERVE.format(patience=patience)]
        if files is not None:
            command = ["sh", "-c", f'ulimit -n {files} && exec "$0" "$@"', *command]
        return RelayProcess(
            config=self._config,
            ledger=self._ledger,
            emulator=self.queue.address,
            port=port or self.port,
            threads=threads,
            command=command,
            **self._surroundings,
        )

    def token(self, email: str, audience: str = AUDIENCE) -> str:
        return minted(self.queue.address, email, audience)

    def bearer(self, email: str, audience: str = AUDIENCE) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(email, audience)}"}
