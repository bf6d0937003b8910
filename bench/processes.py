"""Servers as processes of their own, on loopback and free ports; the caller that starts one ends it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from bench import footprint

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

ROOT = Path(__file__).parent.parent
READY_SECONDS = 30.0
END_SECONDS = 5.0
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH")


class NotReady(Exception):
    """A server ended or did not answer in time; says what it printed last."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Server:
    """
    One process, ready once *port* takes connections.

    What it prints goes to a file in *directory*: writing is part of what is
    measured, reading is not.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        port: int,
        directory: Path,
        environ: Mapping[str, str] | None = None,
        ends_by: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.port = port
        self._ends_by = ends_by
        self._said = directory / f"said-{port}.txt"
        kept = {name: value for name, value in os.environ.items() if name in _KEPT}
        with self._said.open("wb") as out:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**kept, **(environ or {})},
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def wait(self) -> Self:
        deadline = time.monotonic() + READY_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = self._said.read_text(errors="replace").strip().splitlines()
                raise NotReady(f"{' '.join(map(str, self.process.args))}: {said[-1] if said else 'said nothing'}")  # type: ignore[arg-type]
            time.sleep(0.02)
        return self

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def said(self, word: str) -> int:
        """In how many of the lines that it has printed *word* stands."""
        with self._said.open(errors="replace") as lines:
            return sum(word in line for line in lines)

    def cpu_seconds(self) -> float:
        return footprint.cpu_seconds(self.process.pid)

    def set_cores(self, cores: Collection[int]) -> None:
        footprint.set_cores(self.process.pid, cores)

    def end(self) -> None:
        """Tell the process and its children; what is left of them a little later is killed."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, self._ends_by)
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(END_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]
