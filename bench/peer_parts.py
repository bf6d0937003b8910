"""Third-party programs in environments of their own; a missing one is skipped."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from bench.processes import ROOT

PLACE = Path(__file__).parent
INSTALL_SECONDS = 120.0


class Missing(Exception):
    """What cannot be measured here, and why."""


def environment(name: str = "peers") -> Path:
    """The Python of an environment of that name, made where there is none for these very requirements."""
    requirements = PLACE / f"requirements-{name}.txt"
    mark = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    place = ROOT / "build" / f"bench-{name}-{mark}"
    python = place / "bin" / "python"
    if not (place / "complete").exists():
        _install(requirements, place, python)
        (place / "complete").touch()
    return python


def _install(requirements: Path, place: Path, python: Path) -> None:
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv:
        _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(place)])
        _run([uv, "pip", "install", "--quiet", "--python", str(python), "--require-hashes", "-r", str(requirements)])
    else:
        _run([sys.executable, "-m", "venv", "--clear", str(place)])
        _run([str(python), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(requirements)])


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.CalledProcessError as exc:
        said = exc.stderr.strip().splitlines() or ["no reason given"]
        raise Missing(f"could not be installed: {said[-1][:200]}") from exc
    except subprocess.TimeoutExpired as exc:
        raise Missing(f"could not be installed within {INSTALL_SECONDS:.0f} s") from exc


def redis_server() -> str:
    """Where redis-server is; it comes from the system's packages."""
    found = shutil.which("redis-server")
    if found is None:
        raise Missing("redis-server is not on the PATH")
    return found
