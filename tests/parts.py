"""Other people's programs that some tests drive. A machine without one skips those tests and says so at the end."""

from __future__ import annotations

import shutil

import pytest

missing: set[str] = set()


def require(name: str) -> str:
    """Where the program *name* is; skips the test when it is not on the PATH."""
    path = shutil.which(name)
    if path is None:
        missing.add(name)
        pytest.skip(f"{name} is not on the PATH")
    return path
