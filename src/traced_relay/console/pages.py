"""The content of the pages, from a relay's responses and, inside `dev`, from its records and spans."""

from __future__ import annotations

import json
import shlex
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from traced_relay.client import task_text
from traced_relay.console.chart import chart_of
from traced_relay.console.sanitize import legible, visible
from traced_relay.console.task_rows import age, duration, row, state_of
from traced_relay.errors import InvalidCall, NotAuthorized, NotFound
from traced_relay.formats.durations import parse_time, readable
from traced_relay.formats.terminal import as_json
from traced_relay.tasks.callback import MOST_ATTEMPTS
from traced_relay.tasks.ids import callback_id
from traced_relay.tasks.states import ENDED, STATES
from traced_relay.timeline import build
from traced_relay.timeline.bars import DELAY_LABELS, key_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from traced_relay.client.client import Client, Document
    from traced_relay.console.dev_data import DevData

PAGE_SIZE, SHORT_PAGE_SIZE = 200, 50  # short: what the server renders and the script polls
MAX_SHORT_PAGES = 10  # of the relay for one of the console
MAX_ATTEMPTS, MAX_ROUNDS = 100, 10  # the latest ones are shown
_GOOGLE = "https://console.cloud.google.com/"
_PENDING = ("queued", "waiting")
_CURL_FIELDS = ("url", "method", "queue", "labels", "retry")


def first_page(client: Client, query: Mapping[str, str], now: float) -> dict[str, Any]:
    """The list as the server renders it, before the script runs or without it."""
    page = page_of_rows(client, {**query, "few": "1"}, now)
    rows = [each | {"duration": duration(each, now), "age": age(each, now)} for each in page["rows"]]
    return {"rows": rows, "more": page["next"] is not None, "states": STATES}


def page_of_rows(client: Client, query: Mapping[str, str], now: float) -> dict[str, Any]:
    """A page of the list for the script; a short one with `few` in the *query*."""
    filters: Any = {name: query[name] for name in ("state", "queue", "rule") if query.get(name)}
    documents: list[Document] = []
    next_token = query.get("page_token") or None
    size = SHORT_PAGE_SIZE if "few" in query else PAGE_SIZE
    for _ in range(MAX_SHORT_PAGES):
        found, next_token = client.page(
            next_token, label=_label(query.get("label", "")), page_size=size - len(documents), **filters
        )
        documents += found
        if next_token is None or len(documents) >= size:
            break
    return {"now": now, "rows": [row(document) for document in legible(documents)], "next": next_token}


def _label(text: str) -> tuple[str, str] | None:
    name, equals, value = text.partition("=")
    if text and not (name and equals):
        raise InvalidCall("label: must be name=value, such as team=billing")
    return (name, value) if text else None


def task(client: Client, dev_data: DevData | None, task_id: str, now: float) -> dict[str, Any]:
    response = client.status(task_id)
    document, task_id = _limited(legible(response)), response["task_id"]  # the requested id may be a prefix
    records, spans = dev_data.records_and_spans(task_id) if dev_data else (None, None)
    if not records:  # an earlier process wrote them, or the store has dropped them
        records = spans = None
    is_live = build.is_ongoing(document)
    timeline = build.build(
        document,
        legible(records),
        spans,
        callbacks=[] if records else legible(list(_callbacks(client, document))),
        now=now if is_live else None,
        whole_since=dev_data.whole_since if dev_data else "",
    )
    needs_token = not client.is_on_loopback
    return {
        "task": document,
        "summary": task_text.state_text(document),
        "is_live": is_live,
        "upcoming": _upcoming(document, now, is_paused=dev_data is not None and _is_paused(client, document)),
        "chart": chart_of(timeline),
        "missing": legible([*timeline.missing]),
        "attempts": [_attempt(attempt) for attempt in document["attempts"]],
        "records": None if records is None else [_record(record) for record in records],
        "labels": dict(document["labels"].items()),
        "policy": dict(document["retry"].items()),
        "response": _response(response["response"]),
        "callback": _callback(document["callback"], now),
        "actions": _actions(document, dev_data),
        "links": _links(document) if dev_data is None else {},
        "curl": None if document["kind"] == "callback" else curl(response, client.url, needs_token=needs_token),
    }


def _limited(document: Document) -> Document:
    """The document, truncated to the limits of our own relay, since another server may send more."""
    return document | {"attempts": document["attempts"][-MAX_ATTEMPTS:], "state": state_of(document)}


def _callbacks(client: Client, document: Document) -> Iterator[Document]:
    """The callback tasks of the latest rounds."""
    if document["callback"]["state"] == "none":
        return
    last = int(document["round"])
    for number in range(max(1, last - MAX_ROUNDS + 1), last + 1):
        with suppress(NotFound):  # not created yet, or deleted after its retention
            yield client.status(callback_id(document["task_id"], number))


def _is_paused(client: Client, document: Document) -> bool:
    """Requested only inside `dev`, where it costs no call to Google."""
    if document["state"] not in _PENDING:
        return False
    try:
        return any(queue["queue"] == document["queue"] and queue["state"] == "PAUSED" for queue in client.queues())
    except NotAuthorized:  # relay.yaml lists no operator
        return False


def _upcoming(document: Document, now: float, *, is_paused: bool) -> str:
    if document["state"] == "running" and document["cancel_requested_at"]:
        return "is being cancelled"
    if document["state"] not in _PENDING or document["next_attempt_at"] is None:
        return ""
    ahead = parse_time(document["next_attempt_at"]) - now
    due = f"in {readable(ahead)}" if ahead > 0 else f"overdue by {readable(-ahead)}"
    return f"attempt {document['attempt'] + 1} {due}" + (", but its queue is paused" if is_paused else "")


def _attempt(attempt: Mapping[str, Any]) -> dict[str, Any]:
    delay, status = attempt["retry_delay_ms"], attempt["status_code"]
    label = DELAY_LABELS.get(attempt["delay_reason"], "")
    return {
        **attempt,
        "status": "" if status is None else int(status),
        "queue_delay": _milliseconds(attempt["queue_delay_ms"]),
        "latency": _milliseconds(attempt["latency_ms"]),
        "retry": "" if delay is None else f"after {_milliseconds(delay)} {label}".rstrip(),
    }


def _milliseconds(milliseconds: float | None) -> str:
    return "" if milliseconds is None else readable(milliseconds / 1000)


def _record(record: Mapping[str, Any]) -> dict[str, str]:
    shown = {name: legible(str(record.get(name, ""))) for name in ("time", "severity", "event", "message")}
    return shown | {
        "key": legible(key_of(record)),
        "time": shown["time"][11:23],
        "json": as_json(record, indent=2),
    }


def _response(response: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if response is None:
        return None
    is_text = "body" in response
    text = response["body"] if is_text else response["body_base64"]
    return {
        "status": int(response["status_code"]),
        "headers": {legible(name): legible(str(value)) for name, value in response["headers"].items()},
        "body": visible(str(text)),
        "is_text": is_text,
        "truncated": bool(response["truncated"]),
    }


def _callback(callback: Mapping[str, Any], now: float) -> dict[str, Any]:
    due, when = callback["next_attempt_at"], None
    if due is not None:
        ahead = parse_time(due) - now
        when = f"in {readable(ahead)}, at {due}" if ahead > 0 else f"due since {due}"
    shown = {
        "state": callback["state"],
        "attempts": f"{callback['attempt_count']} of at most {MOST_ATTEMPTS}",
        "next": when,
        "reason": callback["reason"],
    }
    return {} if callback["state"] == "none" else shown


def _actions(document: Document, dev_data: DevData | None) -> dict[str, str]:
    """The actions that the task's state allows, with the labels of their buttons."""
    state, actions = document["state"], {}
    if dev_data and state in _PENDING:
        actions["run"] = "Run now"
    if state not in ENDED and not document["cancel_requested_at"]:
        actions["cancel"] = "Cancel"
    if state in ("failed", "cancelled"):
        actions["redrive"] = "Redrive"
    if state in ENDED and document["callback"]["state"] in ("delivered", "failed"):
        actions["resend-callback"] = "Resend callback"
    return actions


def _links(document: Document) -> dict[str, str]:
    """Links to Google's console only: a relay must not place others on the page."""
    named = {"Cloud Trace": document["links"]["trace"], "Logs Explorer": document["links"]["logs"]}
    return {name: url for name, url in named.items() if url.startswith(_GOOGLE)}


def curl(document: Mapping[str, Any], relay: str, *, needs_token: bool) -> str:
    """
    A shell command that enqueues the call again, quoted against shell injection.

    It has no headers, body, timeout or callback, since a task's document does not have them.
    """
    call = {name: document[name] for name in _CURL_FIELDS if document[name]}
    words = ["curl", "-sS", f"{relay}/v1/tasks", "-H", "content-type: application/json"]
    command = " ".join(map(shlex.quote, words))
    if needs_token:
        command += ' -H "authorization: Bearer $ID_TOKEN"'
    return f"{command} -d {shlex.quote(json.dumps(call))}"


def queues(client: Client, now: float) -> dict[str, Any]:
    try:
        found: Sequence[Document] | None = [_queue(queue, now) for queue in legible(client.queues())]
    except NotFound:
        found = None
    return {"queues": found}


def _queue(queue: Document, now: float) -> dict[str, Any]:
    """The queue with the wait of its oldest task; no wait if that task is not due yet."""
    oldest = queue["oldest_estimated_arrival_time"]
    wait = 0.0 if oldest is None else now - parse_time(oldest)
    return {**queue, "oldest_wait": readable(wait) if wait > 0 else ""}
