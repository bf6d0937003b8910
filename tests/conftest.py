"""What the whole suite shares: a run ends by naming what it had to do without, and CI takes no other skip."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING

import hypothesis
import pytest

from support.example_rows import NOW
from support.ledgers import Store
from support.parts import Missing
from traced_relay.runtime.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from support.firestore_emulator import FirestoreEmulator
    from support.google_stand_in import GoogleStandIn
    from traced_relay.ledger.protocol import Ledger

hypothesis.settings.register_profile("quick", max_examples=10, deadline=None)  # for `make unit`

hypothesis.settings.register_profile("suite", deadline=None)  # how long an example takes is the machine's affair
hypothesis.settings.load_profile("suite")


# Workers take the files in this order: the longest ones first, so that none is left over at the end.
LONGEST_FIRST = ("e2e", "deploy", "emulator", "docs", "integration")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {f"tests/{folder}": number for number, folder in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get("/".join(item.nodeid.split("/")[:2]), len(order)))


def pytest_collection_finish() -> None:
    """Take what was imported and collected out of the garbage collector's sight: it lives to the end anyway."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None]:
    yield
    skipped = terminalreporter.stats.get("skipped", [])
    if missing := {
        part for report in skipped for name, part in getattr(report, "user_properties", ()) if name == "missing"
    }:
        terminalreporter.write_line(f"not tested, because missing on this machine: {', '.join(sorted(missing))}")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.excinfo is not None and isinstance(call.excinfo.value, Missing):
        report.user_properties.append(("missing", call.excinfo.value.part))  # goes with it, whoever ran the test
    _refuse_skip(report, call.excinfo)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report, report.call.excinfo if report.call else None)
    return report


def _refuse_skip(
    report: pytest.TestReport | pytest.CollectReport, raised: pytest.ExceptionInfo[BaseException] | None
) -> None:
    """Make a failure of a skip that is not for a missing part: in CI nobody would notice it."""
    is_unexcused = raised and raised.errisinstance(pytest.skip.Exception) and not raised.errisinstance(Missing)
    if raised and is_unexcused and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, though no part is missing: {raised.value}"


@pytest.fixture(scope="session")
def firestore() -> Iterator[FirestoreEmulator]:
    """One emulator for the whole run; each test has collections of its own."""
    from support.firestore_emulator import FirestoreEmulator

    with FirestoreEmulator() as running:
        yield running


@pytest.fixture(scope="session")
def gcloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The directory of a `gcloud` that starts at once."""
    from support.google_stand_in import ForkedGcloud

    running = ForkedGcloud(tmp_path_factory.mktemp("gcloud"))
    yield running.programs
    running.close()


@pytest.fixture
def google() -> Iterator[GoogleStandIn]:
    """Google's APIs, where nothing is there yet; nothing may be asked or answered that they do not describe."""
    from support.google_stand_in import GoogleStandIn

    running = GoogleStandIn()
    yield running
    running.close()
    assert running.problems == []


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


_FILE, _FIRESTORE = (pytest.param(name, marks=pytest.mark.whole) for name in ("file", "firestore"))


@pytest.fixture(params=["memory", _FILE, _FIRESTORE])
def ledger(request: pytest.FixtureRequest, clock: ManualClock, tmp_path: Path) -> Iterator[Ledger]:
    """Each ledger that there is; whatever is tested with it is what all of them do."""
    with Store(request, clock, tmp_path) as store:
        yield store.open()


@pytest.fixture(params=["file", _FIRESTORE])
def store(request: pytest.FixtureRequest, clock: ManualClock, tmp_path: Path) -> Iterator[Store]:
    """Where several ledgers can be opened, as several processes do it."""
    with Store(request, clock, tmp_path) as made:
        yield made
