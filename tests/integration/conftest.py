"""A whole relay and a downstream for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from traced_relay.testing import Downstream, ManualClock, RunningRelay

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def relay() -> Iterator[RunningRelay]:
    with RunningRelay() as running:
        yield running


@pytest.fixture
def downstream() -> Iterator[Downstream]:
    with Downstream() as running:
        yield running


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def timeless(clock: ManualClock) -> Iterator[RunningRelay]:
    """A relay whose time, and whose queue's, stands still until a test turns it."""
    with RunningRelay(clock=clock) as running:
        yield running
