"""The scripts, run as somebody runs them, but against a stand-in of Google's APIs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from support.house import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from support.google_stand_in import GoogleStandIn

SETUP = ("setup-env.sh", "--project", "demo-proj", "--region", "us-central1")
NOTHING: dict[str, str] = {}
DEPLOY = ("deploy.sh", "--project", "demo-proj", "--version", "v2")
RELAY = "traced-relay@demo-proj.iam.gserviceaccount.com"


def show(title: str, lines: Iterable[str]) -> None:
    """For whoever reads along, with `pytest -s`."""
    sys.stdout.write("\n".join([f"\n{title}:", *lines, ""]))


def named(rules: str) -> str:
    """relay.yaml with names of somebody's own: the examples that it comes with are not deployed."""
    for example, own in {
        "relay.example.com": "relay.demo.test",
        "my-project": "demo-proj",
        "oncall@example.com": "oncall@demo.test",
        "*.run.app": "reports-1.us-central1.run.app",
    }.items():
        rules = rules.replace(example, own)
    return rules


def checkout(directory: Path) -> Path:
    """What the scripts need of the project, made ready to be deployed."""
    if not directory.exists():
        others = (".git", ".venv", ".*_cache", ".hypothesis", "tests", "docs", "bench", "*.egg-info", "__pycache__")
        shutil.copytree(ROOT, directory, ignore=shutil.ignore_patterns(*others))
        (directory / "relay.yaml").write_text(named((ROOT / "relay.yaml").read_text()))
    return directory


def run(
    google: GoogleStandIn,
    home: Path,
    script: str,
    *arguments: str,
    programs: str = "",
    root: Path | None = None,
    environ: Mapping[str, str] = NOTHING,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", (root or checkout(home / "checkout")) / script, *arguments],
        env=google.environ(home, programs) | {"PYTHON": sys.executable} | environ,
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
