"""Other people's programs that some tests drive. A machine without one skips those tests and says so at the end."""

from __future__ import annotations

import shutil
from typing import NoReturn

import pytest


class Missing(pytest.skip.Exception):
    """The one kind of skip that CI lets pass: the machine lacks a *part*."""

    def __init__(self, reason: str, part: str) -> None:
        super().__init__(reason)
        self.part = part


def require(name: str) -> str:
    """Where the program *name* is; skips the test when it is not on the PATH."""
    path = shutil.which(name)
    if path is None:
        without(name, f"{name} is not on the PATH")
    return path


def without(part: str, reason: str) -> NoReturn:
    """Skip the test, because this machine lacks *part*."""
    raise Missing(reason, part)
