"""`traced-relay queue` as a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from threading import Event, Thread
from typing import Self


class QueueProcess:
    """Runs until it is killed or told to end; the ports are free ones unless given."""

    def __init__(self, *options: str, port: int = 0, rest_port: int = 0) -> None:
        command = [
            sys.executable,
            "-m",
            "traced_relay",
            "queue",
            f"--port={port}",
            f"--rest-port={rest_port}",
            *options,
        ]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.said = ""
        self._announced = Event()
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._announced.wait(20), f"not announced: {self.said}"
        found = re.search(r"gRPC on (\S+:(\d+)), REST on (\S+:(\d+)), ", self.said)
        assert found, self.said
        self.address, self.rest_url = found[1], found[3]
        self.port, self.rest_port = int(found[2]), int(found[4])

    def _read(self) -> None:
        assert self._process.stderr
        with self._process.stderr as lines:
            for line in lines:
                self.said += line
                if "gRPC on " in line:
                    self._announced.set()
        self._announced.set()

    def signal(self, signal: int) -> None:
        self._process.send_signal(signal)

    def send(self, signal: int) -> int:
        """The exit status it ends with on this *signal*."""
        self._process.send_signal(signal)
        status = self._process.wait(10)
        self._reader.join(10)
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(10)
        self._reader.join(10)
