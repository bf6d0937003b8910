"""What the pages show, put together from a relay's answers and, in its own process, from its records and spans."""

from __future__ import annotations

import json
import shlex
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from traced_relay.client import task_text
from traced_relay.console.chart import draw
from traced_relay.console.sanitize import legible, visible
from traced_relay.console.task_rows import LONGEST_STATE, age, lasted, row
from traced_relay.errors import InvalidCall, NotAuthorized, NotFound
from traced_relay.formats.durations import parse_time, readable
from traced_relay.formats.terminal import as_json
from traced_relay.tasks.callback import MOST_ATTEMPTS
from traced_relay.tasks.ids import callback_id
from traced_relay.tasks.states import ENDED, STATES
from traced_relay.timeline import build
from traced_relay.timeline.bars import key_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from traced_relay.client.client import Client, Document
    from traced_relay.console.dev_data import DevData

_LEAST = ("url", "method", "queue", "labels", "retry")


def curl(document: Mapping[str, Any], relay: str, *, needs_token: bool) -> str:
    """
    A command for a POSIX shell, whatever a stranger wrote into the call.

    Headers, body, timeout and callback are not in a task's document, so they are not in the command either.
    """
    call = {name: document[name] for name in _LEAST if document[name]}
    words = ["curl", "-sS", f"{relay}/v1/tasks", "-H", "content-type: application/json"]
    command = " ".join(map(shlex.quote, words))
    if needs_token:
        command += ' -H "authorization: Bearer $ID_TOKEN"'
    return f"{command} -d {shlex.quote(json.dumps(call))}"


PAGE_SIZE, FEW = 200, 50  # few: what the server draws, and what is asked for again and again
FILTERS = ("state", "queue", "rule", "label")
ATTEMPTS_SHOWN, ROUNDS_SHOWN = 100, 10  # the latest
_GOOGLE = "https://console.cloud.google.com/"
_LIVE = {"queued", "running", "waiting"}


def page_of_rows(client: Client, query: Mapping[str, str], now: float) -> dict[str, Any]:
    """A page of the list as the script takes it; with `few` in the *query* a short one."""
    filters: Any = {name: query[name] for name in ("state", "queue", "rule") if query.get(name)}
    documents, following = client.page(
        query.get("page_token") or None,
        label=_label(query.get("label", "")),
        page_size=FEW if "few" in query else PAGE_SIZE,
        **filters,
    )
    return {"now": now, "rows": [row(document) for document in legible(documents)], "next": following}


def _label(text: str) -> tuple[str, str] | None:
    name, equals, value = text.partition("=")
    if text and not (name and equals):
        raise InvalidCall("a label to look for must be like team=billing")
    return (name, value) if text else None


def first_page(client: Client, query: Mapping[str, str], now: float) -> dict[str, Any]:
    """The same for whoever has no script, or not yet."""
    page = page_of_rows(client, {**query, "few": "1"}, now)
    shown = [each | {"lasted": lasted(each, now), "age": age(each, now)} for each in page["rows"]]
    return {"rows": shown, "more": page["next"] is not None, "states": STATES}


def task(client: Client, dev_data: DevData | None, task_id: str, now: float) -> dict[str, Any]:
    told = client.status(task_id)
    document, task_id = _shown(legible(told)), told["task_id"]  # it may have been given in short
    records = (
        dev_data.records_of(task_id) or None if dev_data else None
    )  # none: said in an earlier process, or long ago
    spans = dev_data.spans_of(task_id) if dev_data and records else None
    callbacks = [] if records else legible(list(_callbacks(client, document)))
    is_live = document["state"] in _LIVE or document["callback"]["state"] == "pending"
    whole_since = dev_data.whole_since if dev_data else ""
    built = build.build(
        document, legible(records), spans, callbacks=callbacks, now=now if is_live else None, whole_since=whole_since
    )
    return {
        "task": document,
        "stands": task_text.state_text(document),
        "is_live": is_live,
        "upcoming": _upcoming(document, now, is_paused=dev_data is not None and _is_paused(client, document)),
        "drawing": draw(built),
        "missing": legible([*built.missing]),
        "attempts": [_attempt(attempt) for attempt in document["attempts"]],
        "records": None if records is None else [_record(record) for record in records],
        "labels": dict(document["labels"].items()),
        "policy": dict(document["retry"].items()),
        "response": _response(told["response"]),
        "callback": _callback(document["callback"], now),
        "verbs": _verbs(document, dev_data),
        "links": _links(document) if dev_data is None else {},
        "curl": None
        if document["kind"] == "callback"
        else curl(told, client.url, needs_token=not client.is_on_loopback),
    }


def _shown(document: Document) -> Document:
    """No longer than a relay of ours makes it, whatever answers."""
    return document | {
        "attempts": document["attempts"][-ATTEMPTS_SHOWN:],
        "state": str(document["state"])[:LONGEST_STATE],
    }


def _callbacks(client: Client, document: Document) -> Iterator[Document]:
    """Those of the last rounds; there may be many."""
    if document["callback"]["state"] == "none":
        return
    last = int(document["round"])
    for number in range(max(1, last - ROUNDS_SHOWN + 1), last + 1):
        with suppress(NotFound):  # still to come, or forgotten by now
            yield client.status(callback_id(document["task_id"], number))


def _is_paused(client: Client, document: Document) -> bool:
    """Asked where it costs nothing: beside the queue."""
    if document["state"] not in ("queued", "waiting"):
        return False
    try:
        return any(queue["queue"] == document["queue"] and queue["state"] == "PAUSED" for queue in client.queues())
    except NotAuthorized:  # relay.yaml lists no operator
        return False


def _upcoming(document: Document, now: float, *, is_paused: bool) -> str:
    if document["state"] == "running" and document["cancel_requested_at"]:
        return "is being cancelled"
    if document["state"] not in ("queued", "waiting") or document["next_attempt_at"] is None:
        return ""
    ahead = parse_time(document["next_attempt_at"]) - now
    when = f"in {readable(ahead)}" if ahead > 0 else f"due since {readable(-ahead)}"
    return f"attempt {document['attempt'] + 1} {when}" + (", but its queue is paused" if is_paused else "")


def _attempt(attempt: Mapping[str, Any]) -> dict[str, Any]:
    delay, status = attempt["retry_delay_ms"], attempt["status_code"]
    decided = {"retry_after": "Retry-After", "backoff": "backoff"}.get(attempt["delay_reason"], "")
    return {
        **attempt,
        "status": "" if status is None else int(status),
        "queue_delay": _milliseconds(attempt["queue_delay_ms"]),
        "latency": _milliseconds(attempt["latency_ms"]),
        "then": "" if delay is None else f"again after {_milliseconds(delay)} {decided}".rstrip(),
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
    """How the report of its end is doing, and when it is tried again."""
    due, when = callback["next_attempt_at"], None
    if due is not None:
        ahead = parse_time(due) - now
        when = f"in {readable(ahead)}, at {due}" if ahead > 0 else f"due since {due}"
    told = {
        "state": callback["state"],
        "attempts": f"{callback['attempt_count']} of at most {MOST_ATTEMPTS}",
        "next": when,
        "reason": callback["reason"],
    }
    return {} if callback["state"] == "none" else told


def _verbs(document: Document, dev_data: DevData | None) -> dict[str, str]:
    """What may be done now, and what its button says."""
    state, verbs = document["state"], {}
    if dev_data and state in ("queued", "waiting"):
        verbs["run"] = "Run now"
    if state not in ENDED and not document["cancel_requested_at"]:
        verbs["cancel"] = "Cancel"
    if state in ("failed", "cancelled"):
        verbs["redrive"] = "Redrive"
    if state in ENDED and document["callback"]["state"] in ("delivered", "failed"):
        verbs["resend-callback"] = "Resend callback"
    return verbs


def _links(document: Document) -> dict[str, str]:
    """To Google's pages, and nowhere else."""
    named = {"Cloud Trace": document["links"]["trace"], "Logs Explorer": document["links"]["logs"]}
    return {name: url for name, url in named.items() if url.startswith(_GOOGLE)}


def queues(client: Client, now: float) -> dict[str, Any]:
    try:
        found: Sequence[Document] | None = [_queue(queue, now) for queue in legible(client.queues())]
    except NotFound:
        found = None
    return {"queues": found}


def _queue(queue: Document, now: float) -> dict[str, Any]:
    """The oldest task may be one that is not yet due: then none waits."""
    oldest = queue["oldest_estimated_arrival_time"]
    waits = 0.0 if oldest is None else now - parse_time(oldest)
    return {**queue, "waits": readable(waits) if waits > 0 else ""}
