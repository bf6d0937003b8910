"""
The life of one task on one axis of time, from its status document, its records and its spans.

Pure, and content with less: without records or spans the document alone gives the attempts and the waits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING, Any

from traced_relay.client import task_text
from traced_relay.formats.durations import parse_time, readable
from traced_relay.timeline import markers
from traced_relay.timeline.bars import Bar, Segment, key_of
from traced_relay.timeline.missing import dropped, find_missing
from traced_relay.tracing.attributes import MESSAGE_ID
from traced_relay.tracing.span_tree import of_task

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from traced_relay.tracing.span_tree import FinishedSpan

    Document = Mapping[str, Any]
    Records = Sequence[Mapping[str, Any]]
    Groups = list[list[Bar]]

_PHASES = {"token_ms": "token", "connect_ms": "connect", "tls_ms": "TLS", "first_byte_ms": "answer", "body_ms": "body"}


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
    lasted: float | None  # seconds of the latest round; None if it has not been due
    start: float
    end: float
    bars: tuple[Bar, ...]
    missing: tuple[str, ...]

    @property
    def seconds(self) -> float:
        return self.end - self.start


def build(
    document: Document,
    records: Records | None,
    spans: Sequence[FinishedSpan] | None = None,
    *,
    callbacks: Sequence[Document] = (),
    now: float | None = None,
    whole_since: str = "",
) -> Timeline:
    """
    *now* is where open bars end; without it, at the last moment anything is known of.

    No record or span from after *whole_since* has been thrown away.

    *records* or *spans* are None where nobody could look for them; without records the *callbacks* are told
    by their own documents.
    """
    own = [record for record in records or () if record.get("task_id") == document["task_id"]]
    about = [record for record in records or () if record.get("callback_of") == document["task_id"]]
    said = [record for record in records or () if markers.tells_of(record, document)]
    its_spans = of_task(spans or (), document["task_id"])
    latest = max(_moments(document, [*own, *about], its_spans)) if now is None else now
    told = [] if about else [_callback_attempts(callback, latest) for callback in callbacks]
    groups = [
        _enqueue(document, its_spans),
        *_first_wait(document, latest),
        *_attempts(document, own, its_spans, latest),
        *_between(document, own),
        *_last_wait(document, own, latest),
        *([bar] for bar in markers.of_relay(said)),
        *([bar] for bar in markers.of_queue(records or (), document)),
        *_callbacks(about, latest),
        *(group for groups in told for group in groups),
    ]
    bars = tuple(bar for group in sorted(groups, key=lambda group: group[0].start) for bar in group)
    return Timeline(
        task_id=document["task_id"],
        trace_id=document["trace_id"],
        state=document["state"],
        reason=document["reason"],
        blame=document["blame"],
        call=f"{document['method']} {document['url'].partition('?')[0].partition('#')[0]}",
        queue=document["queue"],
        attempt_count=document["attempt"],
        round=document["round"],
        lasted=_lasted(document, latest),
        start=min(bar.start for bar in bars),
        end=max(bar.end for bar in bars),
        bars=bars,
        missing=(
            *find_missing(
                document, None if records is None else own, None if spans is None else its_spans, whole_since
            ),
            *(() if records is None else markers.untold(records, said, document)),
            *dropped(records or (), document),
        ),
    )


def _lasted(document: Document, latest: float) -> float | None:
    return task_text.took(document) if document["finished_at"] else task_text.so_far(document, latest)


def _moments(document: Document, records: Records, spans: Sequence[FinishedSpan]) -> Iterable[float]:
    yield parse_time(document["created_at"])
    for attempt in document["attempts"]:
        yield from (parse_time(attempt[name]) for name in ("started_at", "ended_at") if attempt[name])
    yield from (parse_time(record["time"]) for record in records)
    yield from (span.end for span in spans)


def _enqueue(document: Document, spans: Sequence[FinishedSpan]) -> list[Bar]:
    """The request that made the task, and within it the first `send`; without spans, the moment of the row."""
    created = parse_time(document["created_at"])
    first = min((span for span in spans if _is_send(span, document)), key=lambda span: span.start, default=None)
    if first is None:
        return [Bar("enqueue", "enqueue", created, created, key="enqueue")]
    request = next((span for span in spans if span.span_id == first.parent_id and span.kind == "SERVER"), first)
    bars = [Bar("enqueue", "enqueue", request.start, request.end, key="enqueue")]
    return bars if request is first else [*bars, Bar("enqueue", "send", first.start, first.end, depth=1)]


def _is_send(span: FinishedSpan, document: Document) -> bool:
    return span.kind == "PRODUCER" and span.attributes.get(MESSAGE_ID) == document["task_id"]


def _first_wait(document: Document, latest: float) -> list[list[Bar]]:
    created, due = parse_time(document["created_at"]), _first_due(document)
    until = _first_start(document) or _finished_at(document)
    is_open = until is None
    end = latest if until is None else until
    oldest = document["attempts"][0]["attempt"] if document["attempts"] else 1
    label, lost = ("queued", "") if oldest == 1 else ("earlier", f"attempts 1 to {oldest - 1}, no longer kept")
    bars = []
    if due > created:
        note = f"due in {readable(due - end)}" if is_open and end < due else ""
        bars.append(Bar("wait", "scheduled", created, min(due, end), note=note, is_open=bool(note)))
    if end > due or due <= created:
        bars.append(Bar("wait", label, max(created, due), max(created, due, end), note=lost, is_open=is_open))
    return [[bar] for bar in bars]


def _first_due(document: Document) -> float:
    """When its first round was due: of one that was redriven, what its first dispatch said."""
    first = document["attempts"][0] if document["attempts"] else None
    if first is None or first["round"] == document["round"]:
        return parse_time(document["schedule_time"])
    if first["attempt"] > 1 or first.get("queue_delay_ms") is None:
        return parse_time(document["created_at"])
    return parse_time(first["started_at"]) - float(first["queue_delay_ms"]) / 1000


def _first_start(document: Document) -> float | None:
    starts = [parse_time(attempt["started_at"]) for attempt in document["attempts"]]
    return starts[0] if starts else None


def _finished_at(document: Document) -> float | None:
    return parse_time(document["finished_at"]) if document["finished_at"] else None


def _attempts(document: Document, records: Records, spans: Sequence[FinishedSpan], latest: float) -> list[list[Bar]]:
    finished = {record.get("attempt"): record for record in records if record.get("event") == "attempt.finished"}
    rewritten = {record.get("attempt") for record in records if record.get("trace_rewritten")}
    groups = []
    for attempt, after in zip_longest(document["attempts"], document["attempts"][1:]):
        bar = _attempt(attempt, after, document, latest)
        record = finished.get(attempt["attempt"], {})
        number, beats = attempt["attempt"], _beats(attempt, document, records)
        heard = beats and attempt["reason"] == "worker_lost"
        note = bar.note + (f", last heartbeat at {readable(beats[-1] - bar.start)}" if heard else "")
        note += ", traceparent rewritten" if number in rewritten else ""
        note += _why(record)
        bar = replace(bar, note=note, key=f"attempt {number}", beats=beats)
        groups.append([bar, *_downstream(bar, record, attempt["span_id"], spans)])
    return groups


def _beats(attempt: Mapping[str, Any], document: Document, records: Records) -> tuple[float, ...]:
    """When it was known to be alive: as its records say, or the document of the one that runs."""
    said = [r for r in records if r.get("event") == "attempt.heartbeat" and r.get("attempt") == attempt["attempt"]]
    is_running = attempt["ended_at"] is None and attempt["attempt"] == document["attempt"]
    last = document["heartbeat_at"] if is_running else None
    times = (parse_time(text) for text in [*(r["time"] for r in said), *([last] if last else [])])
    return tuple(sorted({time for time in times if time >= parse_time(attempt["started_at"])}))


def _attempt(attempt: Mapping[str, Any], after: Mapping[str, Any] | None, document: Document, latest: float) -> Bar:
    label, start = f"attempt {attempt['attempt']}", parse_time(attempt["started_at"])
    if attempt["ended_at"] is not None:
        outcome, end = attempt["verdict"], parse_time(attempt["ended_at"])
        return Bar("attempt", label, start, end, outcome, _how_it_ended(attempt))
    if after is not None:
        return Bar("attempt", label, start, parse_time(after["started_at"]), note="nobody wrote how it ended")
    beat = document["heartbeat_at"]
    note = f"running, heartbeat at {readable(parse_time(beat) - start)}" if beat else "running"
    return Bar("attempt", label, start, max(start, latest), "running", note, is_open=True)


def _how_it_ended(attempt: Mapping[str, Any]) -> str:
    status, reason, blame = attempt["status_code"], attempt["reason"], attempt["blame"]
    told_by_status = reason is None or reason == f"http_{status}"
    words = " ".join(str(word) for word in (status, None if told_by_status else reason, attempt["verdict"]) if word)
    return f"{words}, {blame}" if blame else words


def _why(record: Mapping[str, Any]) -> str:
    return f": {record['detail']}" if record.get("detail") else ""


def _downstream(attempt: Bar, record: Mapping[str, Any], span_id: str, spans: Sequence[FinishedSpan]) -> list[Bar]:
    """The exchange inside an attempt: as long as its span, or else as its measured parts are together."""
    timing = record.get("timing") or {}
    parts = tuple(Segment(name, timing[key] / 1000) for key, name in _PHASES.items() if timing.get(key))
    sent = [span for span in spans if span.parent_id == span_id and span.kind == "CLIENT"]
    if not parts and not sent:
        return []
    lasted = sum(part.seconds for part in parts)
    start = sent[0].start if sent and not timing.get("token_ms") else attempt.start
    end = max(sent[-1].end, start) if sent else start + lasted
    label = str(record.get("downstream") or sent[0].attributes.get("server.address") or "downstream")
    return [Bar("downstream", label, start, end, attempt.outcome, depth=1, segments=parts)]


def _between(document: Document, records: Records) -> list[list[Bar]]:
    attempts = document["attempts"]
    waits = []
    for before, after in pairwise(attempts):
        if before["ended_at"] is not None:
            start, end = parse_time(before["ended_at"]), parse_time(after["started_at"])
            waits += [[bar] for bar in _wait(before, after["round"], start, end, records)]
    return waits


def _wait(before: Mapping[str, Any], round_after: int, start: float, end: float, records: Records) -> list[Bar]:
    """What the time after the attempt *before* was spent on: its delay, then the queue; or resting until a redrive."""
    if round_after > before["round"]:
        redriven = [r for r in records if _is_redrive(r, round_after)]
        again = max(start, min(parse_time(redriven[0]["time"]), end)) if redriven else end
        whose = f" by {redriven[0]['actor']}" if redriven and "actor" in redriven[0] else ""
        rest = Bar("wait", "at rest", start, again, note=f"until round {round_after}{whose}")
        return [rest, Bar("wait", "queued", again, end)] if redriven else [rest]
    planned = (before["retry_delay_ms"] or 0) / 1000
    label = {"retry_after": "Retry-After", "backoff": "backoff"}.get(before["delay_reason"], "queued")
    in_queue = max(0.0, end - start - planned)
    segments = (Segment(label, min(planned, end - start)), Segment("queue", in_queue)) if planned else ()
    return [Bar("wait", label, start, max(start, end), segments=segments)]


def _is_redrive(record: Mapping[str, Any], round_after: int) -> bool:
    return record.get("event") == "task.redriven" and record.get("round") == round_after


def _last_wait(document: Document, records: Records, latest: float) -> list[list[Bar]]:
    """What came after the last attempt: a wait that still lasts, or one that a cancellation ended."""
    if not document["attempts"] or document["attempts"][-1]["ended_at"] is None:
        return []
    last = document["attempts"][-1]
    start, finished = parse_time(last["ended_at"]), _finished_at(document)
    if finished is None:
        bars = _wait(last, document["round"], start, max(start, latest), records)
        still = [*bars[:-1], _still(bars[-1], document)]
        return [[bar] for bar in still]
    cut_short = last["verdict"] == "retry" and finished > start
    return [[bar] for bar in _wait(last, document["round"], start, finished, records)] if cut_short else []


def _still(bar: Bar, document: Document) -> Bar:
    due = document["next_attempt_at"]
    ahead = parse_time(due) - bar.end if due else 0.0
    note = f"next in {readable(ahead)}" if ahead > 0 else ""
    return Bar("wait", bar.label, bar.start, bar.end, note=note, segments=bar.segments, is_open=True)


def _callbacks(records: Records, latest: float) -> list[list[Bar]]:
    """The attempts of callback tasks, from their records: the document tells only how it stands."""
    started = {_name(r): r for r in records if r.get("event") == "attempt.started"}
    finished = {_name(r): r for r in records if r.get("event") == "attempt.finished"}
    groups = []
    for name, record in started.items():
        start, label = parse_time(record["time"]), f"callback {record.get('attempt')}"
        bar = Bar("callback", label, start, start, key=key_of(record))
        end = finished.get(name)
        if end is None:
            bar = replace(bar, end=max(start, latest), outcome="running", note="running", is_open=True)
        else:
            note = _how_it_ended(end) + _why(end)
            bar = replace(bar, end=parse_time(end["time"]), outcome=end["verdict"], note=note)
        groups.append([bar])
        if bar.outcome == "retry" and end is not None:
            following = started.get((record.get("task_id"), record["attempt"] + 1))
            groups += _callback_wait(end, bar.end, following, latest)
    return groups


def _callback_wait(end: Mapping[str, Any], since: float, following: Mapping[str, Any] | None, latest: float) -> Groups:
    until = max(since, latest) if following is None else parse_time(following["time"])
    delay = {"round": 1, "retry_delay_ms": None, "delay_reason": None} | dict(end)
    return [[replace(bar, is_open=following is None)] for bar in _wait(delay, delay["round"], since, until, ())]


def _callback_attempts(callback: Document, latest: float) -> list[list[Bar]]:
    """The same from the callback's own document."""
    groups = _attempts(callback, (), (), latest)
    return [[_as_callback(bar, callback["task_id"])] for [bar] in groups]


def _as_callback(bar: Bar, task_id: str) -> Bar:
    number = bar.label.removeprefix("attempt ")
    return replace(bar, kind="callback", label=f"callback {number}", key=f"callback {task_id} {number}")


def _name(record: Mapping[str, Any]) -> tuple[object, object]:
    return record.get("task_id"), record.get("attempt")
