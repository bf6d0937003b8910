"""Google's Firestore emulator as a process, and ledgers that keep their tasks in it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Self

from support.parts import require, without

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from traced_relay.ledger.firestore.ledger import FirestoreLedger

PROGRAM = Path("platform", "cloud-firestore-emulator", "cloud_firestore_emulator")


class FirestoreEmulator:
    """Runs on a free port until it is left; a machine without gcloud's emulator or Java skips the test."""

    def __init__(self) -> None:
        require("java")
        program = Path(require("gcloud")).resolve().parent.parent / PROGRAM
        if not program.exists():
            without("firestore emulator", f"{program} is not there")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.host = f"127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [program, "start", "--host=127.0.0.1", f"--port={port}"],
            env=os.environ | {"JAVA_TOOL_OPTIONS": "-Xmx400m"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # the script's child, a JVM, is ended with it
        )
        assert self._process.stdout
        said = [next((line for line in self._process.stdout if "is now running" in line), "")]
        self._reader = Thread(target=self._process.communicate, daemon=True)
        self._reader.start()
        if not said[0]:
            self.__exit__()
            raise AssertionError("the emulator ended before it had started")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._reader.join(10)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It takes requests still and does nothing; once it is thawed it does them all, whoever waits no more."""
        os.killpg(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._process.pid, signal.SIGCONT)

    def ledger(self, collection: str, **options: Any) -> FirestoreLedger:
        return ledger_at(self.host, collection, **options)


def ledger_at(host: str, collection: str, *, project: str = "test-project", **options: Any) -> FirestoreLedger:
    from traced_relay.ledger.firestore.ledger import FirestoreLedger

    with emulator_at(host):
        return FirestoreLedger(project, "traced-relay", collection, **options)


def emulator_at(host: str) -> AbstractContextManager[None]:
    """The client looks into its environment, once, when it is made."""
    return environment(FIRESTORE_EMULATOR_HOST=host)


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            del os.environ[name]
            os.environ.update({} if value is None else {name: value})
