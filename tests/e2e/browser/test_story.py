from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from support.asking import get, post
from support.hanging import Hanging
from traced_relay.dev.environment import Dev
from traced_relay.testing import Downstream

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Page

    from support.watched_page import Watched

    Open = Callable[[str], Watched]

QUICKLY = {"min_backoff": "0.1s", "jitter": "none"}


def copied_by(page: Page, button: str) -> str:
    page.get_by_role("button", name=button).click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    return str(page.evaluate("() => navigator.clipboard.readText()"))


def run_in_a_shell(command: str, folder: Path) -> None:
    ran = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=True, timeout=30)
    assert '"task_id"' in ran.stdout, ran.stdout


def test_empty_list_offers_a_command_that_fills_it(open_page: Open, tmp_path: Path) -> None:
    with Dev() as dev:
        page = open_page(f"{dev.url}/console/").page
        expect(page.get_by_text("No tasks yet")).to_be_visible()
        page.evaluate("() => { window.isTheSame = true; }")
        run_in_a_shell(copied_by(page, "Copy"), tmp_path)
        expect(page.locator("#tasks tbody a")).to_have_count(1)
        expect(page.get_by_text("No tasks yet")).to_be_hidden()
        assert page.evaluate("() => window.isTheSame")


def test_task_page_follows_a_copied_curl_to_its_end(open_page: Open, dev: Dev, tmp_path: Path) -> None:
    hang = Hanging(body="done")
    with Downstream(200, 503, hang) as downstream:
        call = {"url": f"{downstream.url}/it's?a=$(x)", "retry": QUICKLY, "labels": {"who": "it's `me`"}}
        first = post(f"{dev.url}/v1/tasks", call).document
        downstream.wait_for(1)
        page = open_page(first["links"]["trace"]).page
        run_in_a_shell(copied_by(page, "Copy as curl"), tmp_path)
        downstream.wait_for(3)

        page.get_by_role("link", name="Tasks", exact=True).click()
        page.locator("#tasks tbody tr", has_text="running").get_by_role("link").click()
        expect(page.get_by_role("heading", level=1)).to_have_text(f"POST {downstream.url}/it's?a=$(x)")
        expect(page.get_by_role("button", name="attempt 1").first).to_contain_text("503 retry")
        expect(page.get_by_role("button", name="attempt 2")).to_contain_text("running")
        page.evaluate("() => { window.isTheSame = true; }")
        hang.release()
        expect(page.locator(".summary")).to_contain_text("succeeded 2 attempts")
        expect(page.get_by_role("button", name="attempt 2")).to_contain_text("200 succeeded")
        expect(page.locator("#connection")).to_have_text("ended")
        assert page.evaluate("() => window.isTheSame")
        assert downstream.arrived[2].path == "/it's?a=$(x)"


def test_clicked_bar_shows_its_records_only(open_page: Open, dev: Dev) -> None:
    receipt = post(f"{dev.url}/v1/tasks", {"url": f"{dev.sample_url}/flaky?failures=1", "retry": QUICKLY}).document
    assert dev.records.wait_for("task.finished", receipt["task_id"], 20)
    page = open_page(receipt["links"]["trace"]).page
    records = page.locator(".records li:visible")
    expect(records).to_have_count(6)
    bar = page.get_by_role("button", name="attempt 1").first
    bar.click()
    expect(bar).to_have_attribute("aria-pressed", "true")
    expect(records).to_have_count(2)
    expect(page.locator("#filter")).to_have_text("2 of 6, only attempt 1")
    records.first.locator("summary").click()
    expect(records.first.locator("pre")).to_contain_text('"event": "attempt.started"')
    bar.click()
    expect(records).to_have_count(6)


def test_buttons_cancel_redrive_and_run_a_task(open_page: Open, dev: Dev) -> None:
    receipt = post(f"{dev.url}/v1/tasks", {"url": f"{dev.sample_url}/slow?seconds=600"}).document
    assert dev.records.wait_for("attempt.started", receipt["task_id"], 20)
    page = open_page(receipt["links"]["trace"]).page
    page.on("dialog", lambda dialog: dialog.accept())
    stand = page.locator(".summary .state")
    expect(stand).to_have_text("running")
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(stand).to_have_text("cancelled")
    page.get_by_role("button", name="Redrive").click()
    expect(page.get_by_role("button", name="attempt 2")).to_contain_text("running")
    expect(page.get_by_text("until round 2")).to_be_visible()
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(stand).to_have_text("cancelled")

    later = post(f"{dev.url}/v1/tasks", {"url": f"{dev.sample_url}/ok", "delay": "2h"}).document
    page.goto(later["links"]["trace"])
    expect(page.locator(".summary")).to_contain_text("attempt 1 in 1h 59m")
    page.get_by_role("button", name="Run now").click()
    expect(stand).to_have_text("succeeded")


def test_focus_stays_after_a_button_press_by_key(open_page: Open, dev: Dev) -> None:
    receipt = post(f"{dev.url}/v1/tasks", {"url": f"{dev.sample_url}/ok", "delay": "2h"}).document
    page = open_page(receipt["links"]["trace"]).page
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Cancel", exact=True).press("Enter")
    expect(page.locator(".summary .state")).to_have_text("cancelled")
    expect(page.locator("#main")).to_be_focused()
    page.goto(f"{dev.url}/console/queues")
    page.get_by_role("button", name="Pause relay", exact=True).press("Enter")
    resume = page.get_by_role("button", name="Resume relay", exact=True)
    expect(resume).to_be_focused()
    resume.press("Enter")
    expect(page.get_by_role("button", name="Pause relay", exact=True)).to_be_focused()


def test_interruptions_are_shown_beside_their_attempt(open_page: Open, dev: Dev) -> None:
    receipt = post(f"{dev.url}/v1/tasks", {"url": f"{dev.sample_url}/slow?seconds=600"}).document
    begun = dev.records.wait_for("attempt.started", receipt["task_id"], 20)
    assert begun
    for _ in range(2):
        dev.records.add(begun | {"event": "attempt.interrupted", "request_sent": True})
    watched = open_page(receipt["links"]["trace"])
    labels = watched.page.locator(".timeline .label")
    wanted = ["enqueue", "send", "queued", "attempt 1", "interrupted", "interrupted"]
    watched.page.locator(".records summary").first.click()
    for _ in range(2):
        with watched.page.expect_response(re.compile("/tasks/")):
            expect(labels).to_have_text(wanted)
    expect(labels).to_have_text(wanted)
    expect(watched.page.locator(".records pre").first).to_be_visible()
    post(f"{dev.url}/v1/tasks/{receipt['task_id']}:cancel", {})


def test_late_action_shows_the_current_state(open_page: Open, dev: Dev) -> None:
    receipt = post(f"{dev.url}/v1/tasks", {"url": f"{dev.sample_url}/slow?seconds=600"}).document
    assert dev.records.wait_for("attempt.started", receipt["task_id"], 20)
    page = open_page(receipt["links"]["trace"]).page
    said: list[str] = []

    def meanwhile(dialog: object) -> None:
        said.append(dialog.message)  # type: ignore[attr-defined]
        if len(said) == 1:
            post(f"{receipt['links']['status']}:cancel", {})
            post(f"{receipt['links']['status']}:redrive", {})
        dialog.accept()  # type: ignore[attr-defined]

    page.on("dialog", meanwhile)
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.locator(".summary .state")).to_have_text("cancelled")
    assert said[0] == "Cancel this task?"


def test_queue_is_paused_purged_and_resumed(open_page: Open, dev: Dev) -> None:
    page = open_page(f"{dev.url}/console/queues").page
    page.on("dialog", lambda dialog: dialog.accept())
    queue = page.locator("tr[data-id=relay]")
    queue.get_by_role("button", name="Pause").click()
    expect(queue.locator(".state")).to_have_text("paused")
    later = post(f"{dev.url}/v1/tasks", {"url": f"{dev.sample_url}/ok", "delay": "1h"}).document
    queue.get_by_role("button", name="Purge").click()
    queue.get_by_role("button", name="Resume").click()
    expect(queue.locator(".state")).to_have_text("running")
    assert get(f"{dev.queue.rest_url}/v2/{later['task_name']}").status == 404


def test_everything_works_from_the_keyboard(open_page: Open, dev: Dev) -> None:
    receipt = post(f"{dev.url}/v1/tasks", {"url": f"{dev.sample_url}/slow?seconds=600&keys"}).document
    assert dev.records.wait_for("attempt.started", receipt["task_id"], 20)
    page = open_page(f"{dev.url}/console/").page
    expect(page.locator("#tasks tbody a").first).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to content")).to_be_focused()
    page.keyboard.press("/")
    expect(page.get_by_label("Text")).to_be_focused()
    page.keyboard.type("keys running")
    expect(page.locator("#tasks tbody a")).to_have_count(1)
    expect(page.locator("#count")).to_contain_text("1 match")
    page.keyboard.press("Tab")
    expect(page.locator("#tasks tbody a")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".summary .state")).to_have_text("running")
    tab_to(page, "Cancel")
    page.once("dialog", lambda dialog: dialog.accept())
    tab_to(page, "attempt 1")
    page.keyboard.press("Space")
    expect(page.locator(".records li:visible")).to_have_count(1)
    tab_to(page, "Cancel", key="Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".summary .state")).to_have_text("cancelled")


def tab_to(page: Page, name: str, key: str = "Tab") -> None:
    for _ in range(30):
        if page.evaluate("() => document.activeElement.textContent").strip().startswith(name):
            return
        page.keyboard.press(key)
    pytest.fail(f"{name} cannot be reached with {key}")


def test_j_and_k_move_between_rows(open_page: Open, dev: Dev) -> None:
    for _ in range(3):
        post(f"{dev.url}/v1/tasks", {"url": f"{dev.sample_url}/ok"})
    page = open_page(f"{dev.url}/console/").page
    links = page.locator("#tasks tbody a")
    expect(links.nth(2)).to_be_visible()
    for key, place in (("j", 0), ("j", 1), ("ArrowDown", 2), ("k", 1), ("ArrowUp", 0)):
        page.keyboard.press(key)
        expect(links.nth(place)).to_be_focused()
