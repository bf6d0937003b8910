"""A real Chromium; every page is checked for external requests and console errors."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect, sync_playwright

from support.parts import require
from support.watched_page import PATIENCE, Watched
from traced_relay.dev.environment import Dev

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import BrowserContext, Playwright

ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.whole)


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    require("chromium")
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="session")
def chromium(playwright: Playwright) -> Iterator[BrowserContext]:
    path = require("chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=path,
            args=ARGUMENTS,
            headless=True,
            viewport={"width": 1280, "height": 800},
            permissions=["clipboard-read", "clipboard-write"],
            env={**os.environ, "HOME": profile},
        )
        yield context
        context.close()


@pytest.fixture(scope="module")
def dev() -> Iterator[Dev]:
    with Path(os.devnull).open("w") as nowhere, Dev(stream=nowhere) as running:
        yield running


@pytest.fixture
def open_page(chromium: BrowserContext) -> Iterator[Callable[[str], Watched]]:
    """Opens pages; fails at the end if one logged an error or sent a request to another host."""
    opened: list[Watched] = []

    def open_one(url: str) -> Watched:
        watched = Watched(chromium.new_page())
        opened.append(watched)
        watched.page.goto(url)
        expect(watched.page.locator("#connection")).not_to_be_empty()
        return watched

    yield open_one
    for watched in opened:
        watched.page.close()
    assert [watched.complaints for watched in opened if watched.complaints] == []
    assert {host for watched in opened for host in watched.hosts} <= {"localhost", "127.0.0.1"}
