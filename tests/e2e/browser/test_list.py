from __future__ import annotations

import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from support.relay_stand_in import RelayStandIn, answer, document
from support.watched_page import PATIENCE
from traced_relay.client.client import Client
from traced_relay.console.app import console_app
from traced_relay.formats.durations import readable
from traced_relay.runtime.listener import Listener

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Page

    from support.watched_page import Watched

    Open = Callable[[str], Watched]

MANY = 1000


@pytest.fixture
def relay() -> Iterator[RelayStandIn]:
    states = ("failed", "succeeded", "running", "waiting")
    tasks = [document(n, state=states[n % 4], labels={"n": f"={n}="}) for n in reversed(range(MANY))]
    with RelayStandIn(tasks) as running:
        yield running


@pytest.fixture
def console(relay: RelayStandIn) -> Iterator[str]:
    seconds = PATIENCE / 1000  # a busy machine must not look like an unreachable relay
    with Listener(console_app(Client(relay.url, tries=1, timeout=seconds), patience=seconds)) as listener:
        yield f"http://localhost:{listener.port}/"


def expect_count(page: Page, text: str) -> None:
    expect(page.locator("#count")).to_have_text(text)


def test_long_list_loads_on_scroll_and_renders_few_rows(open_page: Open, console: str) -> None:
    page = open_page(console).page
    expect_count(page, "200 loaded, more below")
    for count in (400, 600, 800):
        page.keyboard.press("End")
        expect_count(page, f"{count} loaded, more below")
    page.keyboard.press("End")
    expect_count(page, "1,000 loaded")
    page.keyboard.press("End")
    expect(page.locator("#tasks tbody a").last).to_have_attribute("href", f"/tasks/{0:032x}")
    assert page.locator("#tasks tbody tr").count() < 100
    page.keyboard.press("Home")
    expect(page.locator("#tasks tbody a").first).to_have_attribute("href", f"/tasks/{MANY - 1:032x}")


def test_back_button_restores_the_list(open_page: Open, console: str) -> None:
    page = open_page(console).page
    expect_count(page, "200 loaded, more below")
    for count in (400, 600):
        page.keyboard.press("End")
        expect_count(page, f"{count} loaded, more below")
    drawn = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    page.evaluate(f"() => {{ scrollBy(0, -3000); return {drawn}; }}")  # the rows in view are others then
    path = str(page.locator("#tasks tbody a").nth(15).get_attribute("href"))
    page.locator(f"#tasks [href='{path}']").click()
    expect(page.locator(".summary")).to_be_visible()
    page.evaluate("() => { history.back(); }")
    expect_count(page, "600 loaded, more below")
    expect(page.locator(f"#tasks [href='{path}']")).to_be_in_viewport()


def test_text_filter_searches_rows_not_loaded_yet(open_page: Open, console: str) -> None:
    page = open_page(console).page
    page.get_by_label("Text").fill("n==7=")
    expect_count(page, "1 match, of 1,000 loaded")
    expect(page.locator("#tasks tbody a")).to_have_count(1)
    page.get_by_label("Text").fill("n==7= nowhere")
    expect_count(page, "0 match, of 1,000 loaded")
    page.keyboard.press("Escape")
    expect_count(page, "1,000 loaded")


def test_state_filter_is_sent_and_kept_in_the_url(open_page: Open, console: str) -> None:
    watched = open_page(console)
    page = watched.page
    page.get_by_label("State").select_option("running")
    expect_count(page, "200 loaded, more below")
    states = page.locator("#tasks tbody .state")
    expect(states.first).to_have_text("running")
    assert set(states.all_text_contents()) == {"running"}
    page.reload()
    expect(page.get_by_label("State")).to_have_value("running")
    expect_count(page, "200 loaded, more below")
    page.get_by_label("Label").fill("nonsense")
    page.get_by_label("Label").press("Enter")
    expect(page.locator("#filter-error")).to_have_text("label: must be name=value, such as team=billing")
    _ignore_status(watched, 422)


def test_rows_in_view_are_updated(open_page: Open, console: str, relay: RelayStandIn) -> None:
    page = open_page(console).page
    row = page.locator(f"#tasks tr:has([href='/tasks/{MANY - 1:032x}'])")
    expect(row.locator(".state")).to_have_text("waiting")
    relay.tasks[f"{MANY - 1:032x}"] |= {"state": "succeeded"}
    expect(row.locator(".state")).to_have_text("succeeded")
    newer = [document(MANY + n) for n in reversed(range(3))]
    relay.tasks |= {task["task_id"]: task for task in newer}
    relay.order[:0] = [task["task_id"] for task in newer]
    expect(page.locator("#tasks tbody a").first).to_have_attribute("href", f"/tasks/{MANY + 2:032x}")
    expect_count(page, "203 loaded, more below")

    page.keyboard.press("End")
    expect_count(page, "403 loaded, more below")
    link = page.locator("#tasks tbody a").nth(15)
    task_id = str(link.get_attribute("href")).rpartition("/")[2]
    relay.tasks[task_id] |= {"state": "cancelled"}
    expect(page.locator(f"#tasks tr:has([href='/tasks/{task_id}']) .state")).to_have_text("cancelled")


def test_several_new_pages_are_loaded_in_one_update(open_page: Open, console: str, relay: RelayStandIn) -> None:
    page = open_page(console).page
    expect_count(page, "200 loaded, more below")
    newer = [document(MANY + n) for n in reversed(range(450))]
    relay.tasks |= {task["task_id"]: task for task in newer}
    relay.order[:0] = [task["task_id"] for task in newer]
    expect_count(page, "650 loaded, more below")


def test_deleted_tasks_leave_the_list(open_page: Open, console: str, relay: RelayStandIn) -> None:
    page = open_page(console).page
    expect_count(page, "200 loaded, more below")
    del relay.order[3:]
    expect_count(page, "3 loaded")
    relay.order.clear()
    expect(page.locator("#empty")).to_be_visible()
    expect_count(page, "0 loaded")


def test_tasks_deleted_at_the_end_leave_the_list(open_page: Open, console: str, relay: RelayStandIn) -> None:
    del relay.order[450:]
    page = open_page(console).page
    for text in ("200 loaded, more below", "400 loaded, more below", "450 loaded"):
        page.keyboard.press("End")
        expect_count(page, text)
    page.keyboard.press("End")
    del relay.order[400:]
    expect_count(page, "400 loaded")


def test_rows_of_several_new_pages_are_updated(open_page: Open, console: str, relay: RelayStandIn) -> None:
    page = open_page(console).page
    expect_count(page, "200 loaded, more below")
    newer = [document(MANY + n, state="running") for n in reversed(range(450))]
    relay.tasks |= {task["task_id"]: task for task in newer}
    relay.order[:0] = [task["task_id"] for task in newer]
    expect_count(page, "650 loaded, more below")
    page.evaluate("() => scrollTo(0, 400 * document.querySelector('#tasks tbody tr:not(.space)').offsetHeight)")
    task_id = f"{MANY + 450 - 405:032x}"
    state = page.locator(f"#tasks tr:has([href='/tasks/{task_id}']) .state")
    expect(state).to_have_text("running")
    relay.tasks[task_id] |= {"state": "succeeded"}
    expect(state).to_have_text("succeeded")


def test_changed_filter_leaves_no_gap_in_the_list(open_page: Open, console: str) -> None:
    page = open_page(f"{console}?state=failed").page
    expect_count(page, "200 loaded, more below")
    held: list[Any] = []
    page.route(
        re.compile(r"/rows\?"), lambda route: route.fallback() if "token" in route.request.url else held.append(route)
    )
    with page.expect_request(re.compile(r"/rows\?$")):
        page.get_by_label("State").select_option("any")
    page.keyboard.press("Tab")
    page.evaluate("async () => { scrollTo(0, 1e6); await new Promise(requestAnimationFrame); }")
    page.evaluate("async () => { await fetch('static/icon.svg'); }")
    for route in held:
        route.fallback()
    page.unroute_all()
    for text in ("200 loaded, more below", "400 loaded, more below"):
        expect_count(page, text)
        page.keyboard.press("End")


def test_filter_is_sent_when_it_is_complete(open_page: Open, console: str) -> None:
    watched = open_page(console)
    page = watched.page
    expect_count(page, "200 loaded, more below")
    page.get_by_label("Label").press_sequentially("te")
    assert requests_in(page, watched, 6_000) >= 2
    assert [url for url in watched.asked if "label" in url] == []
    page.get_by_label("Label").press("Enter")
    expect(page.locator("#filter-error")).to_be_visible()
    page.evaluate(COUNT_REPEATED_TEXTS)
    assert requests_in(page, watched, 6_000) >= 2
    assert page.evaluate("() => window.repeatedTexts") == 0
    _ignore_status(watched, 422)


COUNT_REPEATED_TEXTS = """() => {
    window.repeatedTexts = 0;
    const watch = new MutationObserver((said) => { window.repeatedTexts += said.length; });
    const ids = ["filter-error", "connection", "error"];
    for (const id of ids) watch.observe(document.getElementById(id), { childList: true });
}"""


@pytest.mark.soak
def test_growing_list_drops_rows_beyond_its_limit(open_page: Open, console: str, relay: RelayStandIn) -> None:
    page = open_page(console).page
    expect_count(page, "200 loaded, more below")
    for step in range(1, 8):
        newer = [document(MANY * step + n) for n in reversed(range(800))]
        relay.tasks |= {task["task_id"]: task for task in newer}
        relay.order[:0] = [task["task_id"] for task in newer]
        expect(page.locator("#tasks tbody a").first).to_have_attribute("href", f"/tasks/{MANY * step + 799:032x}")
    expect_count(page, "5,000 loaded, more below")
    for _ in range(20):
        before = str(page.locator("#count").text_content())
        page.evaluate("() => scrollTo(0, 1e7)")
        expect(page.locator("#count")).not_to_have_text(before)
        if "below" not in str(page.locator("#count").text_content()):
            break
    expect_count(page, "6,600 loaded")


def test_unreachable_relay_leaves_the_page_as_it_was(open_page: Open, console: str, relay: RelayStandIn) -> None:
    watched = open_page(console)
    page = watched.page
    expect_count(page, "200 loaded, more below")
    relay.instead = lambda: answer({"status": 503, "detail": "try again"}, 503)
    expect(page.locator("#connection")).to_have_text("offline")
    expect(page.locator("#error")).to_contain_text("try again; data as of")
    expect(page.locator("#tasks tbody a").first).to_be_visible()
    relay.instead = None
    expect(page.locator("#connection")).to_have_text("live")
    expect(page.locator("#error")).to_be_hidden()
    _ignore_status(watched, 504)


def test_refusal_is_not_shown_as_an_outage(open_page: Open, console: str, relay: RelayStandIn) -> None:
    watched = open_page(f"{console}tasks/{MANY - 1:032x}")
    page = watched.page
    refusal = {"status": 403, "detail": "this account is no caller of relay.yaml"}
    relay.instead = lambda: answer(refusal, 403)
    expect(page.locator("#connection")).to_have_text("refused")
    expect(page.locator("#error")).to_have_text(
        re.compile(r"^the relay refused: this account is no caller of relay.yaml; data as of [0-9:]{8} UTC$")
    )
    page.goto(f"{console}queues")
    expect(page.locator(".empty")).to_contain_text("with `role: operator` for queues")
    expect(page.locator("#error")).to_have_text("the relay refused: this account is no caller of relay.yaml")
    _ignore_status(watched, 403)


def test_redrive_by_another_client_is_shown(open_page: Open, console: str, relay: RelayStandIn) -> None:
    task_id = f"{0:032x}"
    watched = open_page(f"{console}tasks/{task_id}")
    page = watched.page
    expect(page.locator("#connection")).to_have_text("ended")
    assert 0 < requests_in(page, watched, 60_000, f"/tasks/{task_id}") <= 4
    relay.tasks[task_id] |= {"state": "running", "finished_at": None}
    page.clock.run_for(20_000)
    expect(page.locator(".summary .state")).to_have_text("running")
    expect(page.locator("#connection")).to_have_text("live")


def test_error_page_recovers_by_itself(open_page: Open, console: str, relay: RelayStandIn) -> None:
    relay.instead = lambda: answer({"status": 401, "detail": "an ID token is required"}, 401)
    watched = open_page(console)
    expect(watched.page.locator(".empty")).to_contain_text("an ID token is required")
    expect(watched.page.locator(".empty")).to_contain_text("may have expired")
    relay.instead = None
    expect_count(watched.page, "200 loaded, more below")
    _ignore_status(watched, 401)


def _ignore_status(watched: Watched, status: int) -> None:
    """Chromium logs each error response to its console."""
    watched.complaints[:] = [text for text in watched.complaints if f"status of {status}" not in text]


@pytest.mark.parametrize("count", [1, MANY])
def test_poll_rate_does_not_depend_on_running_tasks(
    open_page: Open, console: str, relay: RelayStandIn, count: int
) -> None:
    relay.order[:] = relay.order[:count]
    for task in relay.tasks.values():
        task["state"] = "running"
    watched = open_page(console)
    page = watched.page
    expect_count(page, "1 loaded" if count == 1 else "200 loaded, more below")
    asked = requests_in(page, watched, 20_000)
    assert 8 <= asked <= 11


def test_script_formats_durations_as_the_server_does(open_page: Open, console: str) -> None:
    script = str(files("traced_relay.console").joinpath("static/tasks.js").read_text())
    found = re.search(r"^function readable.*?^}$", script, re.MULTILINE | re.DOTALL)
    assert found
    lengths = [step * 1.7**power for step in (0.00011, 0.99951, 1.3) for power in range(40)]
    page = open_page(console).page
    assert page.evaluate(f"(lengths) => {{ {found[0]} return lengths.map(readable); }}", lengths) == [
        readable(length) for length in lengths
    ]


def test_hidden_page_does_not_poll(open_page: Open, console: str) -> None:
    watched = open_page(console)
    expect_count(watched.page, "200 loaded, more below")
    watched.page.evaluate("() => Object.defineProperty(document, 'hidden', { configurable: true, get: () => true })")
    assert requests_in(watched.page, watched, 20_000) <= 1
    watched.page.evaluate("() => { delete document.hidden; document.dispatchEvent(new Event('visibilitychange')); }")
    assert requests_in(watched.page, watched, 20_000) >= 8


def requests_in(page: Page, watched: Watched, milliseconds: int, path: str = "/rows") -> int:
    """Number of requests of the page during so many milliseconds of its clock.

    The clock goes on only when the poll that it started has ended, since a response takes real time.
    """
    page.clock.install()
    page.evaluate(COUNT_ENDED_POLLS)
    page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
    before = watched.requests(path)
    for _ in range(milliseconds // 500):
        seen, ended = watched.requests(path), page.evaluate(ENDED_POLLS)
        page.clock.run_for(500)
        page.evaluate(FETCH)
        while watched.requests(path) > seen and page.evaluate(ENDED_POLLS) == ended:
            page.evaluate(FETCH)
    return watched.requests(path) - before


FETCH = "async () => { await fetch('/static/icon.svg'); }"
ENDED_POLLS = "() => window.endedPolls"
COUNT_ENDED_POLLS = """() => {
    window.endedPolls = 0;
    const watch = new MutationObserver(() => { window.endedPolls += 1; });
    watch.observe(document.getElementById("connection"), { attributes: true });
}"""
