"""A place for processes, and a downstream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.place import Place
from traced_relay.testing import Downstream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


pytest.register_assert_rewrite("support.aftermath")


@pytest.fixture
def place(tmp_path: Path, downstream: Downstream) -> Iterator[Place]:
    made = Place(tmp_path, downstream.url)
    with made.queue:
        yield made


@pytest.fixture
def downstream() -> Iterator[Downstream]:
    with Downstream() as running:
        yield running
