"""Runs the `traced-relay` command as a real process."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "traced_relay", *arguments]


def surroundings(**variables: str) -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYTHONPATH") if name in os.environ} | variables


def run(*arguments: str, directory: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=directory,
        env=surroundings(**variables),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def complaint(ran: subprocess.CompletedProcess[str], status: int = 1) -> str:
    """The one line that a user's mistake ends with."""
    assert ran.returncode == status, ran.stderr
    assert ran.stdout == ""
    (line,) = ran.stderr.splitlines()
    assert line.startswith("traced-relay: ")
    return line.removeprefix("traced-relay: ")
