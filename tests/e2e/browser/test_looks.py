from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest

from support.asking import post

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.watched_page import Watched
    from traced_relay.dev.environment import Dev

    Open = Callable[[str], Watched]

SCHEMES: tuple[Literal["light"], Literal["dark"]] = ("light", "dark")


@pytest.fixture(scope="module")
def retried(dev: Dev) -> str:
    """The id of a task that fills every section of its page."""
    retry = {"min_backoff": "0.1s", "jitter": "none"}
    call = {
        "url": f"{dev.sample_url}/flaky?failures=1&{'long=' + 'x' * 300}",
        "retry": retry,
        "labels": {"team": "billing", "order": "1842" * 20},
        "callback": {"url": f"{dev.sample_url}/broken"},
    }
    receipt = post(f"{dev.url}/v1/tasks", call).document
    assert dev.records.wait_for("task.finished", receipt["task_id"], 20)
    return str(receipt["task_id"])


@pytest.mark.parametrize("path", ["", "tasks/ID", "queues"])
def test_axe_finds_nothing_serious(open_page: Open, dev: Dev, retried: str, path: str) -> None:
    watched = open_page(f"{dev.url}/console/{path.replace('ID', retried)}")
    for scheme in SCHEMES:
        watched.page.emulate_media(color_scheme=scheme)
        assert watched.axe() == [], scheme
    watched.page.set_viewport_size({"width": 360, "height": 740})
    assert watched.axe() == []


@pytest.mark.parametrize("path", ["", "tasks/ID", "queues"])
def test_no_page_is_wider_than_its_window(open_page: Open, dev: Dev, retried: str, path: str) -> None:
    page = open_page(f"{dev.url}/console/{path.replace('ID', retried)}").page
    for width, height in ((360, 740), (768, 1024), (1280, 800), (3840, 2160)):
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_colour_scheme_follows_the_system(open_page: Open, dev: Dev) -> None:
    page = open_page(f"{dev.url}/console/").page
    colours = []
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        colours.append(page.evaluate("() => getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(251, 251, 250)", "rgb(20, 23, 26)"]
