"""What a deploy uploads."""

from __future__ import annotations

import subprocess

from support.house import ROOT, places, project_files


def uploaded() -> set[str]:
    """What .gcloudignore leaves of the project, as git reads such a file."""
    ignored = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "-c", "-o", "-i", "--exclude-from=.gcloudignore"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return {places(path) for path in project_files()} - set(ignored.split("\0"))
