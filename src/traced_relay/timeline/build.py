"""
Builds the timeline of one task from its status document, records and spans.

Pure. Without records and spans, the document alone gives the attempts and the waits.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING, Any

from traced_relay.client import task_text
from traced_relay.formats.durations import parse_time, readable
from traced_relay.logs import queue_log
from traced_relay.timeline import markers
from traced_relay.timeline.bars import DELAY_LABELS, Bar, Segment, key_of
from traced_relay.timeline.missing import ENDED, dropped_spans, find_missing
from traced_relay.tracing.attributes import MESSAGE_ID
from traced_relay.tracing.span_tree import of_task

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from traced_relay.tracing.span_tree import FinishedSpan

    Document = Mapping[str, Any]
    Record = Mapping[str, Any]
    Records = Sequence[Record]
    Spans = Sequence[FinishedSpan]
    Groups = Iterator[list[Bar]]  # bars of a group stay together, in the order of their first bars' starts

_PHASES = {"token_ms": "token", "connect_ms": "connect", "tls_ms": "TLS", "first_byte_ms": "answer", "body_ms": "body"}
_JSON_NAMES = {"duration": "lasted", "heartbeats": "beats"}


@dataclass(frozen=True)
class Timeline:
    task_id: str
    trace_id: str
    state: str
    reason: str | None
    blame: str | None
    call: str
    queue: str
    attempt_count: int
    round: int
    duration: float | None  # seconds of the latest round; None before it is due
    start: float
    end: float
    bars: tuple[Bar, ...]
    missing: tuple[str, ...]

    @property
    def seconds(self) -> float:
        return self.end - self.start


def to_json(timeline: Timeline) -> dict[str, Any]:
    return asdict(timeline, dict_factory=lambda items: {_JSON_NAMES.get(name, name): value for name, value in items})


def is_ongoing(document: Document) -> bool:
    """Whether the task or its callback has not ended."""
    return document["state"] not in ENDED or document["callback"]["state"] == "pending"


def build(
    document: Document,
    records: Records | None,
    spans: Spans | None = None,
    *,
    callbacks: Sequence[Document] = (),
    now: float | None = None,
    whole_since: str = "",
) -> Timeline:
    """
    Open bars end at *now*; without it, at the latest known time.

    *records* or *spans* are None if their source could not be read; without callback records, the *callbacks* are
    drawn from their documents. All records and spans since *whole_since* are present.
    """
    task_id, known_records = document["task_id"], records or ()
    own = [record for record in known_records if record.get("task_id") == task_id]
    of_callbacks = [record for record in known_records if record.get("callback_of") == task_id]
    related = [record for record in known_records if markers.is_related(record, document)]
    own_spans = of_task(spans or (), task_id)
    dispatches, moments = queue_log.read(known_records)
    latest = max(_times(document, [*own, *of_callbacks], own_spans)) if now is None else now
    groups = [
        _enqueue(document, own_spans),
        *_first_wait(document, latest),
        *_attempts(document, own, own_spans, latest),
        *_waits_between_attempts(document, own),
        *_last_wait(document, own, latest),
        *([bar] for bar in markers.of_relay(related)),
        *([bar] for bar in markers.of_queue(dispatches, moments, document)),
        *_callbacks_from_records(of_callbacks, latest),
        *_callbacks_from_documents(() if of_callbacks else callbacks, latest),
    ]
    bars = tuple(bar for group in sorted(groups, key=lambda group: group[0].start) for bar in group)
    return Timeline(
        task_id=task_id,
        trace_id=document["trace_id"],
        state=document["state"],
        reason=document["reason"],
        blame=document["blame"],
        call=f"{document['method']} {document['url'].partition('?')[0].partition('#')[0]}",
        queue=document["queue"],
        attempt_count=document["attempt"],
        round=document["round"],
        duration=task_text.duration(document) if document["finished_at"] else task_text.elapsed(document, latest),
        start=min(bar.start for bar in bars),
        end=max(bar.end for bar in bars),
        bars=bars,
        missing=(
            *find_missing(
                document, None if records is None else own, None if spans is None else own_spans, whole_since
            ),
            *markers.unmatched_dispatches(dispatches, related, document),
            *dropped_spans(known_records, document),
        ),
    )


def _times(document: Document, records: Records, spans: Spans) -> Iterator[float]:
    yield parse_time(document["created_at"])
    for attempt in document["attempts"]:
        yield from (parse_time(attempt[name]) for name in ("started_at", "ended_at") if attempt[name])
    yield from (parse_time(record["time"]) for record in records)
    yield from (span.end for span in spans)


def _enqueue(document: Document, spans: Spans) -> list[Bar]:
    """The enqueue request with the first `send` inside it; without spans, the row's creation time."""
    created = parse_time(document["created_at"])
    first = min((span for span in spans if _is_send(span, document)), key=lambda span: span.start, default=None)
    if first is None:
        return [Bar("enqueue", "enqueue", created, created, key="enqueue")]
    request = next((span for span in spans if span.span_id == first.parent_id and span.kind == "SERVER"), first)
    bars = [Bar("enqueue", "enqueue", request.start, request.end, key="enqueue")]
    return bars if request is first else [*bars, Bar("enqueue", "send", first.start, first.end, depth=1)]


def _is_send(span: FinishedSpan, document: Document) -> bool:
    return span.kind == "PRODUCER" and span.attributes.get(MESSAGE_ID) == document["task_id"]


def _first_wait(document: Document, latest: float) -> Groups:
    """The waits before the first stored attempt: until it is due, then in the queue."""
    attempts = document["attempts"]
    created, due = parse_time(document["created_at"]), _first_due(document)
    until = parse_time(attempts[0]["started_at"]) if attempts else _finished_at(document)
    is_open = until is None
    end = latest if until is None else until
    oldest = attempts[0]["attempt"] if attempts else 1
    label, note = ("queued", "") if oldest == 1 else ("earlier", f"attempts 1 to {oldest - 1} no longer stored")
    if due > created:
        due_in = f"due in {readable(due - end)}" if is_open and end < due else ""
        yield [Bar("wait", "scheduled", created, min(due, end), note=due_in, is_open=bool(due_in))]
    if end > due or due <= created:
        yield [Bar("wait", label, max(created, due), max(created, due, end), note=note, is_open=is_open)]


def _first_due(document: Document) -> float:
    """When the first round was due; after a redrive, derived from the queue delay of its first attempt."""
    first = document["attempts"][0] if document["attempts"] else None
    if first is None or first["round"] == document["round"]:
        return parse_time(document["schedule_time"])
    if first["attempt"] > 1 or first.get("queue_delay_ms") is None:
        return parse_time(document["created_at"])
    return parse_time(first["started_at"]) - float(first["queue_delay_ms"]) / 1000


def _finished_at(document: Document) -> float | None:
    return parse_time(document["finished_at"]) if document["finished_at"] else None


def _attempts(document: Document, records: Records, spans: Spans, latest: float) -> Groups:
    finished = {record.get("attempt"): record for record in records if record.get("event") == "attempt.finished"}
    rewritten = {record.get("attempt") for record in records if record.get("trace_rewritten")}
    for attempt, following in zip_longest(document["attempts"], document["attempts"][1:]):
        number = attempt["attempt"]
        record, heartbeats = finished.get(number, {}), _heartbeats(attempt, document, records)
        bar = _attempt(attempt, following, document, latest)
        note = bar.note
        if heartbeats and attempt["reason"] == "worker_lost":
            note += f", last heartbeat at {readable(heartbeats[-1] - bar.start)}"
        if number in rewritten:
            note += ", traceparent rewritten"
        bar = replace(bar, note=note + _detail(record), key=f"attempt {number}", heartbeats=heartbeats)
        yield [bar, *_downstream(bar, record, attempt["span_id"], spans)]


def _heartbeats(attempt: Mapping[str, Any], document: Document, records: Records) -> tuple[float, ...]:
    """Times from the attempt's heartbeat records and, while it runs, from the document."""
    number = attempt["attempt"]
    beats = [r["time"] for r in records if r.get("event") == "attempt.heartbeat" and r.get("attempt") == number]
    is_running = attempt["ended_at"] is None and number == document["attempt"]
    if is_running and document["heartbeat_at"]:
        beats.append(document["heartbeat_at"])
    start = parse_time(attempt["started_at"])
    return tuple(sorted({time for time in map(parse_time, beats) if time >= start}))


def _attempt(attempt: Mapping[str, Any], following: Mapping[str, Any] | None, document: Document, latest: float) -> Bar:
    label, start = f"attempt {attempt['attempt']}", parse_time(attempt["started_at"])
    if attempt["ended_at"] is not None:
        return Bar("attempt", label, start, parse_time(attempt["ended_at"]), attempt["verdict"], _outcome_note(attempt))
    if following is not None:
        return Bar("attempt", label, start, parse_time(following["started_at"]), note="end not recorded")
    heartbeat = document["heartbeat_at"]
    note = f"running, heartbeat at {readable(parse_time(heartbeat) - start)}" if heartbeat else "running"
    return Bar("attempt", label, start, max(start, latest), "running", note, is_open=True)


def _outcome_note(attempt: Mapping[str, Any]) -> str:
    """Status, reason, verdict and blame; the reason is left out if it repeats the status."""
    status, reason, blame = attempt["status_code"], attempt["reason"], attempt["blame"]
    parts = (status, None if reason == f"http_{status}" else reason, attempt["verdict"])
    note = " ".join(str(part) for part in parts if part)
    return f"{note}, {blame}" if blame else note


def _detail(record: Record) -> str:
    return f": {record['detail']}" if record.get("detail") else ""


def _downstream(attempt: Bar, record: Record, span_id: str, spans: Spans) -> list[Bar]:
    """The HTTP exchange of an attempt: as long as its CLIENT span, else as the sum of its measured phases."""
    timing = record.get("timing") or {}
    phases = tuple(Segment(name, timing[key] / 1000) for key, name in _PHASES.items() if timing.get(key))
    exchanges = [span for span in spans if span.parent_id == span_id and span.kind == "CLIENT"]
    if not phases and not exchanges:
        return []
    start = exchanges[0].start if exchanges and not timing.get("token_ms") else attempt.start
    end = max(exchanges[-1].end, start) if exchanges else start + sum(phase.seconds for phase in phases)
    label = str(record.get("downstream") or exchanges[0].attributes.get("server.address") or "downstream")
    return [Bar("downstream", label, start, end, attempt.outcome, depth=1, segments=phases)]


def _waits_between_attempts(document: Document, records: Records) -> Groups:
    for before, after in pairwise(document["attempts"]):
        if before["ended_at"] is not None:
            start, end = parse_time(before["ended_at"]), parse_time(after["started_at"])
            yield from ([bar] for bar in _wait(before, after["round"], start, end, records))


def _wait(before: Mapping[str, Any], round_after: int, start: float, end: float, records: Records) -> list[Bar]:
    """The wait after the attempt *before*: its retry delay, then the queue; or idle until a redrive."""
    if round_after > before["round"]:
        redrive = next((record for record in records if _is_redrive(record, round_after)), None)
        until = end if redrive is None else max(start, min(parse_time(redrive["time"]), end))
        actor = f" by {redrive['actor']}" if redrive is not None and "actor" in redrive else ""
        idle = Bar("wait", "idle", start, until, note=f"until round {round_after}{actor}")
        return [idle] if redrive is None else [idle, Bar("wait", "queued", until, end)]
    delay = (before["retry_delay_ms"] or 0) / 1000
    label = DELAY_LABELS.get(before["delay_reason"], "queued")
    in_queue = max(0.0, end - start - delay)
    segments = (Segment(label, min(delay, end - start)), Segment("queue", in_queue)) if delay else ()
    return [Bar("wait", label, start, max(start, end), segments=segments)]


def _is_redrive(record: Record, round_after: int) -> bool:
    return record.get("event") == "task.redriven" and record.get("round") == round_after


def _last_wait(document: Document, records: Records, latest: float) -> Groups:
    """The wait after the last attempt: still open, or ended by a cancellation."""
    if not document["attempts"] or document["attempts"][-1]["ended_at"] is None:
        return
    last = document["attempts"][-1]
    start, finished = parse_time(last["ended_at"]), _finished_at(document)
    if finished is None:
        *closed, current = _wait(last, document["round"], start, max(start, latest), records)
        yield from ([bar] for bar in (*closed, _open_wait(current, document)))
    elif last["verdict"] == "retry" and finished > start:
        yield from ([bar] for bar in _wait(last, document["round"], start, finished, records))


def _open_wait(bar: Bar, document: Document) -> Bar:
    due = document["next_attempt_at"]
    ahead = parse_time(due) - bar.end if due else 0.0
    return replace(bar, note=f"next in {readable(ahead)}" if ahead > 0 else "", is_open=True)


def _callbacks_from_records(records: Records, latest: float) -> Groups:
    """The attempts of callback tasks; the task's own document has only the callback's state."""
    started = {_attempt_id(record): record for record in records if record.get("event") == "attempt.started"}
    finished = {_attempt_id(record): record for record in records if record.get("event") == "attempt.finished"}
    for name, record in started.items():
        start, label = parse_time(record["time"]), f"callback {record.get('attempt')}"
        bar = Bar("callback", label, start, start, key=key_of(record))
        end = finished.get(name)
        if end is None:
            yield [replace(bar, end=max(start, latest), outcome="running", note="running", is_open=True)]
            continue
        note = _outcome_note(end) + _detail(end)
        bar = replace(bar, end=parse_time(end["time"]), outcome=end["verdict"], note=note)
        yield [bar]
        if bar.outcome == "retry":
            following = started.get((record.get("task_id"), record["attempt"] + 1))
            yield from _callback_wait(end, bar.end, following, latest)


def _attempt_id(record: Record) -> tuple[object, object]:
    return record.get("task_id"), record.get("attempt")


def _callback_wait(end: Record, since: float, following: Record | None, latest: float) -> Groups:
    until = max(since, latest) if following is None else parse_time(following["time"])
    attempt = {"round": 1, "retry_delay_ms": None, "delay_reason": None} | dict(end)
    for bar in _wait(attempt, attempt["round"], since, until, ()):
        yield [replace(bar, is_open=following is None)]


def _callbacks_from_documents(callbacks: Sequence[Document], latest: float) -> Groups:
    for callback in callbacks:
        for [bar] in _attempts(callback, (), (), latest):
            number = bar.label.removeprefix("attempt ")
            key = f"callback {callback['task_id']} {number}"
            yield [replace(bar, kind="callback", label=f"callback {number}", key=key)]
