"""`traced-relay serve` as a process of its own, beside a queue of its own."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from threading import Condition, Event, Thread
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVE = (sys.executable, "-m", "traced_relay", "serve")


class RelayProcess:
    """
    Runs until it is killed or told to end; its records are read as they are printed, while *is_read* is set.

    What a kill tore off in the middle of a line is in *torn*.
    """

    def __init__(
        self,
        *,
        config: Path,
        ledger: str,
        emulator: str,
        port: int,
        threads: int = 100,
        command: Sequence[str] = SERVE,
        is_awaited: bool = True,
        **surroundings: str,
    ) -> None:
        environ = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "PYTHONPATH")}
        environ |= {
            "RELAY_CONFIG": str(config),
            "RELAY_LEDGER": ledger,
            "CLOUD_TASKS_EMULATOR_HOST": emulator,
            "GOOGLE_CLOUD_PROJECT": "test-project",
            "PORT": str(port),
            "RELAY_THREADS": str(threads),
            **surroundings,
        }
        self.port = port
        self.torn: list[str] = []
        self.records: list[dict[str, Any]] = []
        self.is_read = Event()
        self.is_read.set()
        self._changed = Condition()
        self._process = subprocess.Popen(
            command,
            env=environ,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()
        if is_awaited:
            self.wait_for("relay.started")

    def _read(self) -> None:
        assert self._process.stdout
        with self._process.stdout as lines:
            for line in lines:
                self.is_read.wait()
                with self._changed:
                    self._keep(line)
                    self._changed.notify_all()

    def _keep(self, line: str) -> None:
        try:
            self.records.append(json.loads(line))
        except ValueError:
            self.torn.append(line)

    def said(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        wanted = {"event": event} | fields
        return [record for record in self.records if wanted.items() <= record.items()]

    def wait_for(self, event: str, seconds: float = 20.0, **fields: Any) -> dict[str, Any]:
        return self.wait_for_all(1, event, seconds, **fields)[0]

    def wait_for_all(self, count: int, event: str, seconds: float = 20.0, **fields: Any) -> list[dict[str, Any]]:
        """So many records of *event*: what was printed before an answer may be read after it."""

        def are_there() -> bool:
            return len(self.said(event, **fields)) >= count

        with self._changed:
            assert self._changed.wait_for(are_there, seconds), (event, fields, self.records)
            return self.said(event, **fields)

    def wait_for_line(self, message: str, seconds: float = 20.0) -> None:
        """A line of a library, which is no event."""
        with self._changed:
            is_there = self._changed.wait_for(lambda: any(r.get("message") == message for r in self.records), seconds)
            assert is_there, self.records

    def leave_descriptors(self, spare: int | None) -> int:
        """Let the worker open *spare* more files, None: as many as it likes; how many it has open."""
        (worker,) = self.workers()
        taken = {int(entry.name) for entry in Path(f"/proc/{worker}/fd").iterdir()}
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = most
        if spare is not None:
            free = (number for number in range(most) if number not in taken)
            limit = [next(free) for _ in range(spare + 1)][-1]
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (limit, most))
        return len(taken)

    def workers(self) -> list[int]:
        """The processes that the server has made to do the work: one, or none for a moment."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(pid) for pid in children.read_text().split()] if self.is_alive() else []

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """The whole process group at once, as when a machine is lost."""
        os.killpg(self._process.pid, 9)
        self._process.wait(10)
        self.is_read.set()
        self._reader.join(10)

    def cpu_seconds(self) -> float:
        """What the server and its worker have taken up to now."""
        parent = self._process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in (parent, *children)]
        return sum(int(ticks) for stat in stats for ticks in stat[11:13]) / os.sysconf("SC_CLK_TCK")

    def end(self, signal: int) -> int:
        self._process.send_signal(signal)
        status = self._process.wait(10)
        self.is_read.set()
        self._reader.join(10)
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_alive():
            self.kill()
