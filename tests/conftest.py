"""What the whole suite shares: a run ends by naming the programs it had to do without."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from parts import missing

if TYPE_CHECKING:
    from collections.abc import Generator


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None]:
    yield
    if missing:
        terminalreporter.write_line(f"not tested, because missing on this machine: {', '.join(sorted(missing))}")
