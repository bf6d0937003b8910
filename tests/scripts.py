"""The scripts, run as somebody runs them, but against a stand-in of Google's APIs."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from house import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from google_stand_in import GoogleStandIn

SETUP = ("setup-env.sh", "--project", "demo-proj", "--region", "us-central1")
NOTHING: dict[str, str] = {}
DEPLOY = ("deploy.sh", "--project", "demo-proj", "--version", "v2")
RELAY = "traced-relay@demo-proj.iam.gserviceaccount.com"


def show(title: str, lines: Iterable[str]) -> None:
    """For whoever reads along, with `pytest -s`."""
    sys.stdout.write("\n".join([f"\n{title}:", *lines, ""]))


def run(
    google: GoogleStandIn,
    home: Path,
    script: str,
    *arguments: str,
    programs: str = "",
    root: Path = ROOT,
    environ: Mapping[str, str] = NOTHING,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", root / script, *arguments],
        env=google.environ(home, programs) | {"PYTHON": sys.executable} | environ,
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
