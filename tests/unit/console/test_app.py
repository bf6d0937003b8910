from __future__ import annotations

import json
import re
import shlex
import subprocess
from dataclasses import replace
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest
from werkzeug.wrappers import Response

from support.documents import QUEUE_STATUS
from support.lives import BEGINNING, FLAKY, at, record, records, spans
from support.relay_stand_in import RelayStandIn, answer, document
from traced_relay.client.client import Client
from traced_relay.console.app import console_app
from traced_relay.console.bounded_ask import BoundedClient
from traced_relay.console.chart import chart_of
from traced_relay.console.dev_data import DevData
from traced_relay.console.pages import curl
from traced_relay.console.task_rows import age, duration, row
from traced_relay.errors import InvalidCall
from traced_relay.logs.store import RecordStore
from traced_relay.runtime.clock import ManualClock
from traced_relay.timeline.build import build
from traced_relay.tracing.span_store import SpanStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask.testing import FlaskClient

NOW = 1_790_000_000.0
OWN = {"X-Relay-Console": "1", "Origin": "http://localhost"}
TASK = f"{7:032x}"


@pytest.fixture
def relay() -> Iterator[RelayStandIn]:
    with RelayStandIn([document(number) for number in reversed(range(10))]) as running:
        yield running


@pytest.fixture
def console(relay: RelayStandIn) -> FlaskClient:
    return browser_of(relay.url)


def browser_of(url: str, dev_data: DevData | None = None, patience: float = 10.0) -> FlaskClient:
    client = Client(url, tries=1, timeout=5.0)
    return console_app(client, dev_data, clock=ManualClock(NOW + 60), patience=patience).test_client()


def dev_data(calls: list[tuple[str, str]]) -> DevData:
    def tell(method: str, name: str) -> None:
        if name.endswith("-2"):
            raise InvalidCall("there is no such task", status=409)
        calls.append((method, name))

    return DevData(RecordStore(), SpanStore(), tell, sample="curl")


def test_list_works_without_a_script(console: FlaskClient) -> None:
    page = console.get("/").text
    assert page.count('data-state="failed"') == 10
    assert page.index(f"/tasks/{9:032x}") < page.index(f"/tasks/{0:032x}")
    assert "10 loaded" in page


def test_rows_are_paged_and_filtered(console: FlaskClient, relay: RelayStandIn) -> None:
    page = console.get(f"/rows?state=failed&queue=relay&rule=reports&label=team=a=b&page_token={6:032x}").json
    assert page is not None
    assert ([each["id"][-1] for each in page["rows"]], page["next"]) == (list("543210"), None)
    (asked,) = relay.asked
    assert set(asked.partition("?")[2].split("&")) == {
        *("state=failed", "queue=relay", "rule=reports", "label.team=a%3Db", "limit=200", f"page_token={6:032x}"),
    }


def test_invalid_filter_is_reported(console: FlaskClient) -> None:
    assert console.get("/rows?label=team").json == {"trouble": "label: must be name=value, such as team=billing"}
    assert "label: must be name=value, such as team=billing" in console.get("/?label=team").text


def test_task_page_shows_timeline_request_and_response(console: FlaskClient) -> None:
    page = console.get(f"/tasks/{TASK}").text
    for part in (
        "attempt 1",
        "503 retry, downstream",
        "Retry-After",
        "after 1.50 s Retry-After",
        "max_attempts",
        "Cloud",
    ):
        assert part in page
    assert '<a class="button" data-id="Cloud Trace" href="https://console.cloud.google.com/traces' in page
    assert "data-post" in page
    assert "Redrive" in page


def test_links_other_than_web_pages_are_dropped(relay: RelayStandIn, console: FlaskClient) -> None:
    relay.tasks[TASK]["links"] = {"status": "x", "trace": "javascript:alert(1)", "logs": "data:text/html,x"}
    page = console.get(f"/tasks/{TASK}").text
    assert "javascript:" not in page
    assert "data:text" not in page


@pytest.mark.parametrize("host", ["rebound.example", "127.0.0.1.example.com", "localhost.evil", ""])
def test_rebound_host_name_is_refused(console: FlaskClient, host: str) -> None:
    assert console.get("/", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize(
    "changes",
    [
        {"X-Relay-Console": ""},
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost:9999"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_foreign_pages_cannot_act(console: FlaskClient, relay: RelayStandIn, changes: dict[str, str]) -> None:
    assert console.post(f"/tasks/{TASK}/cancel", headers=OWN | changes).status_code == 403
    assert relay.asked == []


def test_own_page_can_act(console: FlaskClient, relay: RelayStandIn) -> None:
    relay.instead = lambda: answer(document())
    for verb in ("cancel", "redrive", "resend-callback"):
        answered = console.post(f"/tasks/{TASK}/{verb}", headers=OWN | {"Sec-Fetch-Site": "same-origin"})
        assert (answered.status_code, answered.json) == (200, {})
    assert relay.asked == [f"/v1/tasks/{TASK}:{verb}?" for verb in ("cancel", "redrive", "resend-callback")]


def test_dev_routes_are_absent_for_a_deployed_relay(console: FlaskClient) -> None:
    for path in (f"/tasks/{TASK}/run", "/queues/relay/purge", f"/tasks/{TASK}/nonsense"):
        assert console.post(path, headers=OWN).status_code in (404, 405)
    assert console.get("/records").status_code == 404
    assert console.get(f"/tasks/{TASK}/life").status_code == 405


def test_queue_actions_call_the_embedded_queue(relay: RelayStandIn) -> None:
    calls: list[tuple[str, str]] = []
    console = browser_of(relay.url, dev_data(calls))
    for path in ("/queues/relay/pause", "/queues/relay/resume", "/queues/relay/purge", f"/tasks/{TASK}/run"):
        assert console.post(path, headers=OWN).status_code == 200
    assert calls == [
        *[(f"{verb}Queue", "relay") for verb in ("Pause", "Resume", "Purge")],
        ("RunTask", f"relay/tasks/{TASK}-3"),  # task 2 does not exist
    ]
    assert console.post("/queues/relay/delete", headers=OWN).status_code == 404


def test_headers_forbid_external_content_and_frames(console: FlaskClient) -> None:
    for path in ("/", f"/tasks/{TASK}", "/queues", "/static/page.js", "/rows", "/nowhere"):
        with console.get(path) as answered:
            headers = answered.headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert (headers["X-Content-Type-Options"], headers["Referrer-Policy"]) == ("nosniff", "no-referrer")
        assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize(
    ("instead", "status", "said"),
    [
        (answer({"status": 401, "detail": "an ID token is required"}, 401), 401, "an ID token is required"),
        (answer({"status": 403, "detail": "this account is no caller"}, 403), 403, "this account is no caller"),
        (answer({"status": 503, "detail": "try again"}, 503), 504, "try again"),
        (answer({"status": 500, "detail": "oh"}, 500), 502, "answered 500, not as a relay does"),
        (Response("<h1>It works!</h1>"), 502, "answered 200, not as a relay does"),
        (answer({"tasks": [{"task_id": 5}], "task_id": 5, "queues": [{}]}), 502, "not as a relay does"),
        (answer({"tasks": 7, "task_id": "x", "queues": 7}), 502, "not as a relay does"),
        (Response(b"\xff\xfe" * 1000, content_type="application/json"), 502, "not as a relay does"),
        (Response(status=302, headers={"Location": "http://127.0.0.1:1/"}), 502, "not as a relay does"),
    ],
)
def test_each_relay_failure_gives_one_clear_message(
    relay: RelayStandIn, console: FlaskClient, instead: Response, status: int, said: str
) -> None:
    relay.instead = lambda: instead
    for path in ("/", "/rows", f"/tasks/{TASK}", "/queues"):
        answered = console.get(path)
        assert (answered.status_code, said in answered.text.replace("&#39;", "'")) == (status, True), answered.text
        assert "Traceback" not in answered.text


def test_relay_without_queues_shows_not_available(relay: RelayStandIn, console: FlaskClient) -> None:
    relay.instead = lambda: answer({"status": 404, "detail": "no such path"}, 404)
    page = console.get("/queues")
    assert (page.status_code, "Not available" in page.text) == (200, True)


def test_unreachable_relay_is_reported(relay: RelayStandIn, console: FlaskClient) -> None:
    relay.stop()
    answered = console.get("/rows")
    assert (answered.status_code, answered.json) == (504, {"trouble": f"the relay at {relay.url} cannot be reached"})


def test_endless_response_does_not_block_a_page(relay: RelayStandIn) -> None:
    release = Event()

    def trickle() -> Response:
        def parts() -> Iterator[bytes]:
            yield b" "
            release.wait(20)
            yield b"{}"

        return Response(parts(), content_type="application/json")

    relay.instead = trickle
    answered = browser_of(relay.url, patience=0.2).get("/rows")
    release.set()
    assert (answered.status_code, answered.json) == (504, {"trouble": "the relay did not respond within 0.2 s"})


def test_queues_page_shows_known_values(relay: RelayStandIn, console: FlaskClient) -> None:
    late = {"queue": "late", "tasks_count": 3, "oldest_estimated_arrival_time": "2026-09-21T14:12:50Z"}
    relay.queues = [
        QUEUE_STATUS | {"state": "PAUSED", "max_dispatches_per_second": 100},
        QUEUE_STATUS | late,
    ]
    relay.queues.append(relay.queues[1] | {"oldest_estimated_arrival_time": "2026-09-21T15:00:00Z"})
    page = console.get("/queues").text
    assert 'data-state="paused"' in page
    assert re.findall(r'data-label="Oldest wait" class="number">(.*?)<', page) == ["\u2013", "1m 30s", "\u2013"]


@pytest.mark.parametrize(
    ("state", "callback", "verbs"),
    [
        ("queued", "none", ["run", "cancel"]),
        ("running", "pending", ["cancel"]),
        ("succeeded", "none", []),
        ("succeeded", "delivered", ["resend-callback"]),
        ("failed", "pending", ["redrive"]),
        ("cancelled", "failed", ["redrive", "resend-callback"]),
    ],
)
def test_allowed_actions_have_buttons(relay: RelayStandIn, state: str, callback: str, verbs: list[str]) -> None:
    report = {"state": callback, "attempt_count": 0, "next_attempt_at": None, "reason": None}
    relay.tasks[TASK] |= {"state": state, "callback": report}
    page = browser_of(relay.url, dev_data([])).get(f"/tasks/{TASK}").text
    assert re.findall(rf'data-post="/tasks/{TASK}/([a-z-]+)"', page) == verbs


def test_finished_requests_free_their_slot() -> None:
    bounded_client = BoundedClient(seconds=0.2, limit=1)
    assert [bounded_client.ask(lambda: "answer") for _ in range(3)] == ["answer"] * 3


def test_rows_show_duration_and_age() -> None:
    ended = row(document())
    assert (duration(ended, NOW + 60), age(ended, NOW + 60)) == ("1.00 s", "1m 00s")
    delayed = row(document(created_at="2026-09-21T14:00:00Z"))
    assert duration(delayed, NOW + 60) == "1.00 s"
    running = row(document(state="running", total_ms=None, finished_at=None))
    assert duration(running, NOW + 5.9) == "5 s …"
    ahead = row(document(state="queued", finished_at=None, attempt=0, schedule_time="2026-09-21T15:33:20Z"))
    assert duration(ahead, NOW).startswith("in ")
    never = document(state="cancelled", attempt=0, schedule_time="2026-09-21T15:33:20Z", total_ms=0)
    assert duration(row(never), NOW) == "not due"


def test_chart_keeps_bars_within_its_axis() -> None:
    chart = chart_of(build(FLAKY, records(FLAKY), spans(FLAKY)))
    assert [lane.bar.label for lane in chart.lanes][:4] == ["enqueue", "send", "queued", "attempt 1"]
    for lane in chart.lanes:
        for part in (lane, *lane.parts):
            x, width = float(part.x.rstrip("%")), float(part.width.rstrip("%"))
            assert 0 <= x <= x + width <= 100.01
    assert [text for _, text in chart.ticks] == ["0", "500 ms", "1 s", "1.5 s", "2 s", "2.5 s", "3 s"]


def test_running_attempt_shows_its_last_heartbeat() -> None:
    life = FLAKY | {"state": "running", "finished_at": None, "heartbeat_at": "2026-09-21T14:13:23.200000Z"}
    running = life["attempts"][2] | {"ended_at": None, "verdict": None}
    life = life | {"attempts": [*life["attempts"][:2], running]}
    of_another = record("attempt.heartbeat", at(0.5), attempt=3)  # from a worker with a slow clock
    (bar,) = (bar for bar in build(life, [of_another], now=BEGINNING + 4).bars if bar.label == "attempt 3")
    assert [round(heartbeat - BEGINNING, 3) for heartbeat in bar.heartbeats] == [3.2]


@pytest.mark.parametrize("url", ["https://x.example/?q='; touch pwned; '", "https://x.example/$(touch pwned)`touch b`"])
def test_curl_quotes_any_text_of_the_call(url: str) -> None:
    task: dict[str, Any] = document(url=url, labels={"'a\"": "\\ $HOME \u202e !"})
    command = curl(task, "http://127.0.0.1:8080", needs_token=True)
    words = subprocess.run(
        ["sh", "-c", f"curl() {{ printf '%s\\0' \"$@\"; }}; ID_TOKEN=t; {command}"],
        capture_output=True,
        check=True,
        text=True,
    ).stdout.split("\0")
    assert words[:5] == ["-sS", "http://127.0.0.1:8080/v1/tasks", "-H", "content-type: application/json", "-H"]
    assert words[5] == "authorization: Bearer t"
    sent = json.loads(words[7])
    assert (sent["url"], sent["labels"]) == (url, task["labels"])
    assert shlex.split(command)[0] == "curl"


def raw(text: str, status: int = 200) -> Response:
    return Response(text, status, content_type="application/json")


def lying(**changes: Any) -> dict[str, Any]:
    return document(7) | changes


NOTHING = r'"next_page_token": null, "queues": []'


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" * 5000])
@pytest.mark.parametrize("field", ["attempt", "round", "total_ms", "retry_count"])
def test_invalid_number_in_a_response_is_502(
    relay: RelayStandIn, console: FlaskClient, field: str, number: str
) -> None:
    task = json.dumps(lying(**{field: "HERE"})).replace('"HERE"', number)
    relay.instead = lambda: raw(task[:-1] + f', "tasks": [{task}], {NOTHING}}}')
    for path in ("/", "/rows", f"/tasks/{TASK}"):
        assert console.get(path).status_code == 502


def test_lone_surrogate_is_escaped_or_refused(relay: RelayStandIn, console: FlaskClient) -> None:
    half = "\ud83d"
    made = lying(retry={"max_attempts": half})
    relay.instead = lambda: answer(made)
    answered = console.get(f"/tasks/{TASK}")
    assert (answered.status_code, "\\ud83d" in answered.text) == (200, True)
    refused = lying(url=f"https://x/{half}", labels={"a": half}, state=half)
    relay.instead = lambda: answer(refused | {"tasks": [refused], "next_page_token": None})
    for path in ("/", "/rows", f"/tasks/{TASK}"):
        assert console.get(path).status_code == 502
    relay.instead = lambda: answer({"status": 422, "detail": half}, 422)
    assert "\\ud83d" in console.get("/").text
    assert console.get(f"/tasks/{TASK}").status_code == 422


@pytest.mark.parametrize(
    "field",
    ["task_id", "state", "attempts", "labels", "retry", "callback", "links", "url", "round", "response", "kind"],
)
@pytest.mark.parametrize("instead", [None, 5, "x", [], {}, [[]], True])
def test_field_of_another_type_is_no_server_error(
    relay: RelayStandIn, console: FlaskClient, field: str, instead: object
) -> None:
    made = lying(**{field: instead})
    relay.instead = lambda: answer(made | {"tasks": [made], "next_page_token": None})
    for path in ("/", "/rows", f"/tasks/{TASK}"):
        assert console.get(path).status_code in (200, 502)


def test_endless_attempts_and_rounds_are_limited(relay: RelayStandIn, console: FlaskClient) -> None:
    attempt = document(7)["attempts"][0]
    callback = {"state": "delivered", "attempt_count": 1, "next_attempt_at": None, "reason": None}
    attempts = [attempt | {"attempt": n, "version": f"v{n}."} for n in range(1, 10_001)]
    relay.tasks[TASK] |= {"attempts": attempts, "state": "x" * 1000, "round": 10**12, "callback": callback}
    page = console.get(f"/tasks/{TASK}").text
    assert ("v9901." in page, "v9900." in page, "v10000." in page) == (True, False, True)
    assert ("x" * 40 in page, "x" * 41 in page) == (True, False)
    assert len(relay.asked) == 1 + 10


@pytest.mark.parametrize(
    "url",
    [
        "http://console.cloud.google.com/traces",
        "https://console.cloud.google.com.evil.example/",
        "https://console.cloud.google.com@evil.example/",
        "https://evil.example@console.cloud.google.com/",
        "https://console.cloud.google.com:8443/",
        "https://console.cloud.google.com\\@evil.example/",
        "https://evil.example/",
    ],
)
def test_links_lead_to_google_only(relay: RelayStandIn, console: FlaskClient, url: str) -> None:
    relay.tasks[TASK]["links"] = {"status": url, "trace": url, "logs": url}
    page = console.get(f"/tasks/{TASK}").text
    assert ('target="_blank"' in page, "the links above" in page) == (False, False)


def test_control_characters_are_shown_escaped(relay: RelayStandIn, console: FlaskClient) -> None:
    body = "a\x00b\x1b[31mc\r\nd\re\tf\x85"
    relay.tasks[TASK]["response"] = {
        "status_code": 200,
        "headers": {"x": "\x07"},
        "body": body,
        "truncated": False,
    }
    page = console.get(f"/tasks/{TASK}").text
    assert "a\\x00b\\x1b[31mc\r\nd\\re\tf\\x85" in page
    assert "<bdi>\\x07</bdi>" in page


def test_pending_callback_shows_its_next_attempt(relay: RelayStandIn, console: FlaskClient) -> None:
    waiting = {"state": "pending", "attempt_count": 3, "next_attempt_at": "2026-09-21T14:19:20Z", "reason": "http_503"}
    relay.tasks[TASK]["callback"] = waiting
    page = console.get(f"/tasks/{TASK}").text
    for part in ("3 of at most 10", "in 5m 00s, at 2026-09-21T14:19:20Z", "The relay retries it automatically"):
        assert part in page
    relay.tasks[TASK]["callback"] = waiting | {"state": "none"}
    assert "No callback." in console.get(f"/tasks/{TASK}").text


def test_dropped_records_are_not_shown_as_missing(relay: RelayStandIn) -> None:
    beside = replace(dev_data([]), records=RecordStore(2))
    for minute in (13, 14, 15):
        time = f"2026-09-21T14:{minute}:30.000000Z"
        beside.records.add({"event": "attempt.heartbeat", "task_id": TASK, "attempt": 1, "time": time})
    page = browser_of(relay.url, beside).get(f"/tasks/{TASK}").text
    assert ("its first records and spans are no longer kept here" in page, "no record" in page) == (True, False)
