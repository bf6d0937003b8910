from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from playwright.sync_api import expect
from werkzeug.wrappers import Response

from support.asking import post
from support.documents import QUEUE_STATUS
from support.relay_stand_in import RelayStandIn, document
from support.watched_page import PATIENCE
from traced_relay.client.client import Client
from traced_relay.console.app import console_app
from traced_relay.formats.terminal import printable
from traced_relay.runtime.listener import Listener
from traced_relay.testing import Downstream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Page

    from support.watched_page import Watched
    from traced_relay.dev.environment import Dev

    Open = Callable[[str], Watched]

EVIL = [
    "<script>window.harm=1</script>",
    '"><img src=x onerror="window.harm=1">',
    "'-window.harm=1-'",
    "{{ 7 * 7 }}{% raw %}</pre></textarea></template>",
    "\u202egnorw\u2066 \u200f<svg/onload=window.harm=1>",
    "</script><script>window.harm=1</script>",
    "javascript:window.harm=1",
]
INVISIBLE = "".join(
    chr(code)
    for first, last in (
        *(
            (0x200B, 0x200F),
            (0x202A, 0x202E),
            (0x2060, 0x206F),
            (0x2028, 0x2029),
            (0x80, 0xA0),
            (0x1, 0x8),
            (0x7F, 0x7F),
        ),
        *((0x61C, 0x61C), (0xAD, 0xAD), (0xFEFF, 0xFEFF), (0x180B, 0x180F), (0x34F, 0x34F), (0x115F, 0x1160)),
        *((0x3164, 0x3164), (0x2800, 0x2800), (0xFE00, 0xFE0F), (0xFFF9, 0xFFFB), (0xE000, 0xE000), (0x378, 0x378)),
        *((0xE0001, 0xE0001), (0xE0020, 0xE007F), (0xE0100, 0xE0101)),
    )
    for code in range(first, last + 1)
)
TEXTS = [*EVIL, "<b>" + "x" * 20_000, f"a{INVISIBLE}b"]
SHOWN = [printable(text) for text in TEXTS]


def assert_harmless(watched: Watched) -> None:
    assert watched.page.evaluate("() => window.harm === undefined")
    assert watched.page.locator("main img, main script, main b, main iframe").count() == 0


def invisible_in(page: Page) -> str:
    """Invisible and direction-changing characters in the text, title and attributes of the page."""
    found = page.evaluate(
        """() => [document.title, document.documentElement.outerHTML].join("").match(
          /[\\p{Cf}\\p{Cs}\\p{Co}\\p{Cn}\\p{Zl}\\p{Zp}\\p{DI}\\u0000-\\u0008\\u007f-\\u009f]/gu)?.join("") ?? \"\"
        """
    )
    return str(found)


@pytest.fixture(scope="module")
def lying() -> Iterator[RelayStandIn]:
    """A relay with hostile text in every field."""
    tasks = [_evil(number, text) for number, text in enumerate(TEXTS)]
    with RelayStandIn(list(reversed(tasks))) as relay:
        text = EVIL[1]
        relay.queues = [QUEUE_STATUS | {"queue": evil, "for": text, "state": text, "detail": text} for evil in EVIL]
        yield relay


def _evil(number: int, text: str) -> dict[str, Any]:
    made = document(number, url=text, method=text, queue=text, rule=text, reason=text, blame=text)
    made |= {"trace_id": text, "labels": {text: text}, "state": "failed" if number else text}
    made["links"] = {"status": text, "trace": "javascript:window.harm=1", "logs": f"https://x/{text}"}
    made["attempts"][0] |= {"reason": text, "blame": text, "verdict": text, "version": text}
    made["response"] = {"status_code": 200, "headers": {text: text}, "body": text, "truncated": True}
    made["callback"] |= {"state": text, "reason": text}
    made["retry"] |= {text: text}
    return made


@pytest.fixture(scope="module")
def console(lying: RelayStandIn) -> Iterator[str]:
    with Listener(console_app(Client(lying.url, tries=1), patience=PATIENCE / 1000)) as listener:
        yield f"http://localhost:{listener.port}"


def test_hostile_list_is_shown_as_text(open_page: Open, console: str) -> None:
    watched = open_page(f"{console}/")
    rows = watched.page.locator("#tasks tbody")
    assert rows.locator(".url").all_text_contents() == SHOWN[::-1]
    assert rows.locator(".labels").all_text_contents() == [f"{text}={text}" for text in SHOWN[::-1]]
    assert invisible_in(watched.page) == ""
    assert_harmless(watched)


@pytest.mark.parametrize("number", range(len(TEXTS)))
def test_hostile_task_is_shown_as_text(open_page: Open, console: str, number: int) -> None:
    watched = open_page(f"{console}/tasks/{number:032x}")
    text = SHOWN[number]
    page = watched.page
    assert page.locator("h1 .call-url").text_content() == text
    assert page.locator("pre.body").text_content() == text
    assert invisible_in(page) == ""
    expect(page.locator("dl", has_text="max_attempts")).to_contain_text(text)
    links = page.locator(".actions a").evaluate_all("all => all.map((link) => link.href)")
    assert [url for url in links if not url.startswith("https://x/")] == []
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert_harmless(watched)


def test_hostile_queues_are_shown_as_text(open_page: Open, console: str) -> None:
    watched = open_page(f"{console}/queues")
    assert watched.page.locator("tbody tr td:first-child bdi").all_text_contents() == SHOWN[: len(EVIL)]
    assert invisible_in(watched.page) == ""
    assert_harmless(watched)


@pytest.mark.parametrize("text", [EVIL[0], EVIL[1], EVIL[4], EVIL[5]])
def test_hostile_url_has_no_effect(open_page: Open, dev: Dev, text: str) -> None:
    query = "&".join(f"{name}={quote(text)}" for name in ("queue", "rule", "label", "text", "other", quote(text)))
    watched = open_page(f"{dev.url}/console/?{query}")
    expect(watched.page.locator("[name=queue]")).to_have_value(text)
    assert_harmless(watched)
    watched.expects = "status of 4"  # no such task, or no page
    watched.page.goto(f"{dev.url}/console/tasks/{quote(text, safe='')}")
    assert_harmless(watched)


def test_hostile_call_and_response_are_shown_as_text(open_page: Open, dev: Dev) -> None:
    labels = {text.replace("\n", ""): text for text in (e[:60] for e in EVIL)}
    headers = {"X-Evil": EVIL[1], "Content-Type": "text/html"}
    with Downstream(Response("".join(EVIL[:6]), headers=headers)) as downstream:
        url = f"{downstream.url}/'-window.harm=1-'?a=javascript:window.harm=1//"
        call = {"url": url, "labels": labels, "headers": {"x-mine": EVIL[0]}, "body": EVIL}
        made = post(f"{dev.url}/v1/tasks", call, Idempotency_Key="<script>window.harm=1</script>")
        assert made.status == 202, made.document
        receipt = made.document
        assert dev.records.wait_for("task.finished", receipt["task_id"], 20)
    watched = open_page(receipt["links"]["trace"])
    page = watched.page
    assert page.locator("pre.body").text_content() == "".join(SHOWN[:6])
    assert page.locator("dl", has_text="x-evil").locator("dd").all_text_contents().count(EVIL[1]) == 1
    for summary in page.locator(".records summary").all():
        summary.click()
    expect(page.locator(".records pre").first).to_be_visible()
    assert invisible_in(page) == ""
    assert_harmless(watched)
    page.goto(f"{dev.url}/console/")
    expect(page.locator("#tasks .labels").first).to_contain_text(EVIL[0])
    assert_harmless(watched)
