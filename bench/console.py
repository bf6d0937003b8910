"""
The console: the cost of a long list for a browser, and of an open page for a relay with many calls.

Needs Chromium; without one its tables are empty.
"""

from __future__ import annotations

import http.client
import os
import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from playwright.sync_api import sync_playwright

from bench.figures import Table, sample
from bench.http_load import one_client
from bench.many_calls import answer, dispatches, relay_with, send, standing
from traced_relay.client.client import Client
from traced_relay.console.app import console_app
from traced_relay.dev.environment import Dev
from traced_relay.runtime.listener import Listener
from traced_relay.tasks.call import Call, RetryPolicy
from traced_relay.tasks.row import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from bench.figures import Cell, Scale
    from bench.progress import Progress

CONSOLES = (0, 1, 5)
STATES = ("succeeded", "failed", "waiting", "running")
LIST_HEADINGS = ("tasks", "first paint ms", "all loaded s", "text ms", "state ms", "worst frame ms", "heap MB", "nodes")
LOOK_HEADINGS = ("consoles", "calls", "requests s", "status p50 ms", "p99 ms")
LIST_NOTES = (
    "First paint: with the rows that the server drew. All loaded: every page, for a text that matches nothing.",
    "Text and state: from the change to the new rows; the longest frame while scrolling it all; heap after GC.",
)
LOOK_NOTES = ("Requests: of the consoles to the relay. Status: GET /v1/tasks/{id} on a new connection each time.",)
NONE = ("There is no Chromium here.",)
TEXT = """(word) => {
    const field = document.querySelector("[name=text]");
    const began = performance.now();
    field.value = word;
    field.dispatchEvent(new Event("input", { bubbles: true }));
    document.body.offsetHeight;
    return performance.now() - began;
}"""
STATE = """async (state) => {
    const field = document.querySelector("[name=state]");
    const began = performance.now();
    field.value = state;
    field.dispatchEvent(new Event("change", { bubbles: true }));
    const are = () => [...document.querySelectorAll("#tasks tbody .state")].map((place) => place.textContent);
    while (!(are().length && are().every((text) => text === state))) await new Promise(requestAnimationFrame);
    return performance.now() - began;
}"""
SCROLL = """async () => {
    let last = performance.now(), worst = 0;
    for (let step = 0; step <= 60; step += 1) {
        scrollTo(0, document.body.scrollHeight * step / 60);
        const now = await new Promise(requestAnimationFrame);
        worst = Math.max(worst, now - last);
        last = now;
    }
    return worst;
}"""


def run(scale: Scale, progress: Progress, directory: Path) -> list[Table]:
    path = shutil.which("chromium")
    lists: list[tuple[Cell, ...]] = []
    looks: list[tuple[Cell, ...]] = []
    if path is not None:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
            for count in scale.listed:
                progress.say(f"a list of {count}")
                lists.append(_list(browser, count))
            looks = list(_looked_at(scale, progress, directory, browser))
    notes = (LIST_NOTES, LOOK_NOTES) if path else (NONE, NONE)
    return [
        Table("console: a list in a browser", LIST_HEADINGS, lists, notes[0]),
        Table("console: a relay that holds calls", LOOK_HEADINGS, looks, notes[1]),
    ]


def _list(browser: Browser, count: int) -> tuple[Cell, ...]:
    with Path(os.devnull).open("w") as nowhere, Dev(stream=nowhere) as dev:
        now = time.time()
        for number in range(count):
            dev.application.ledger.insert(_row(number, now))
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(f"{dev.url}/console/")
        page.get_by_text("live").wait_for()
        paint = page.evaluate("() => performance.getEntriesByName('first-contentful-paint')[0].startTime")
        began = time.monotonic()
        page.evaluate(TEXT, "matches-nothing")
        page.get_by_text(f"of {count:,} loaded", exact=False).wait_for(timeout=60_000)
        loaded = time.monotonic() - began
        text = median(page.evaluate(TEXT, f"number={number}") for number in range(9))
        page.evaluate(TEXT, "")
        frame = page.evaluate(SCROLL)
        heap, nodes = _footprint(page)
        page.evaluate("() => scrollTo(0, 0)")
        state = median(page.evaluate(STATE, each) for each in STATES)
        page.close()
    return (count, paint, loaded, text, state, frame, heap, nodes)


def _row(number: int, now: float) -> Row:
    url = f"https://reports-{number % 7}.a.run.app/build?report={number}"
    labels = {"team": ("billing", "reports")[number % 2], "number": str(number)}
    call = Call(url=url, labels=labels, timeout=600.0, retry=RetryPolicy())
    state = STATES[number % 4]
    ended = {"finished_at": now - number + 1} if state in ("succeeded", "failed") else {}
    return Row(
        task_id=uuid4().hex,
        queue="relay",
        call=call,
        rule="reports",
        caller="bench",
        carrier={},
        trace_id=uuid4().hex,
        span_id="0" * 16,
        sampled=True,
        state=state,
        attempt=1,
        **{"created_at": now - number, "schedule_time": now - number, "next_attempt_at": None, "started": 1, **ended},
    )


def _footprint(page: Page) -> tuple[float, float]:
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    session.send("Performance.enable")
    metrics = {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}
    return metrics["JSHeapUsedSize"] / 1e6, metrics["Nodes"]


@dataclass
class _Watch:
    """A relay under a console, and how often it was asked."""

    port: int
    token: str
    task_id: str
    asked: int = 0

    def status(self, seconds: float) -> list[float]:
        latencies, until = [], time.monotonic() + seconds
        while time.monotonic() < until:
            began = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            connection.request("GET", f"/v1/tasks/{self.task_id}", headers={"Authorization": f"Bearer {self.token}"})
            with connection.getresponse() as answered:
                assert answered.status == 200, answered.read()
                answered.read()
            latencies.append(time.monotonic() - began)
            connection.close()
            time.sleep(0.05)
        return latencies


def _looked_at(scale: Scale, progress: Progress, directory: Path, browser: Browser) -> Iterator[tuple[Cell, ...]]:
    calls = scale.held[0]
    with ExitStack() as running:
        parts = running.enter_context(standing(directory, scale, progress))
        relay = running.enter_context(relay_with(parts, calls))
        made = dispatches(parts, relay, calls)
        clients = [running.enter_context(one_client(relay.port, 200)) for _ in range(calls)]
        send(parts, clients, made)
        token = parts.queue.token()
        client = Client(f"http://127.0.0.1:{relay.port}", id_token=lambda: token, tries=1)
        watch = _Watch(relay.port, token, next(client.list(page_size=1))["task_id"])
        listener = running.enter_context(Listener(_counted(console_app(client), watch)))
        yield from _rounds(scale, browser, watch, listener.port, calls)
        answer(parts, clients)


def _rounds(scale: Scale, browser: Browser, watch: _Watch, port: int, calls: int) -> Iterator[tuple[Cell, ...]]:
    """In turns, so that whatever else the machine does meets all alike."""
    took: dict[int, list[float]] = {count: [] for count in CONSOLES}
    asked: dict[int, float] = dict.fromkeys(CONSOLES, 0.0)
    seconds = max(scale.idle / 6, 4.5)
    for _ in range(scale.rounds - 1):
        for count in CONSOLES:
            pages = [browser.new_page() for _ in range(count)]
            for page in pages:
                page.goto(f"http://localhost:{port}/")
                page.get_by_text("live").wait_for()
            before = watch.asked
            took[count] += watch.status(seconds)
            asked[count] += (watch.asked - before) / seconds / (scale.rounds - 1)
            for page in pages:
                page.close()
    for count in CONSOLES:
        found = sample(took[count])
        yield (str(count), calls, asked[count] or None, found.p50, found.p99)


def _counted(app: Any, watch: _Watch) -> Any:
    def counting(environ: Any, start_response: Any) -> Any:
        watch.asked += environ["PATH_INFO"] in ("/rows", "/")
        return app(environ, start_response)

    return counting
