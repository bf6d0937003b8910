"""
What was written down of one task beside its document: records, spans, the queue's log, and where they were found.

Whatever cannot be had is said, and the rest is used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from traced_relay.errors import NoRecords, RelayError
from traced_relay.formats.durations import parse_time
from traced_relay.logs import cloud_entries, queue_log
from traced_relay.logs.log_input import decoded
from traced_relay.runtime.loopback import is_local_host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from traced_relay.client.dev_console import DevConsole
    from traced_relay.logs.cloud_logging import CloudLogging
    from traced_relay.tracing.span_tree import FinishedSpan

    Document = Mapping[str, Any]

SLACK = 120.0  # seconds before the beginning and after the end, for clocks that differ and records that come late
_PROJECT = "[a-z][a-z0-9.:-]{3,98}"  # it becomes part of a filter, and is what a relay says
_IN_A_NAME = re.compile(rf"projects/({_PROJECT})/locations/")


@dataclass(frozen=True)
class Sources:
    """
    *records* or *spans* are None where nobody could look for them; *told* says where they come from, or why not.

    Where only the latest are kept, all of them are there from *whole_since* on.
    """

    records: list[dict[str, Any]] | None
    spans: list[FinishedSpan] | None
    told: tuple[str, ...]
    whole_since: str = ""


@dataclass(frozen=True)
class LogProject:
    """A project whose log holds the records, and how that is known."""

    project: str
    known_from: str  # such as `--project says`


def from_file(chunks: Iterable[bytes], name: str, ids: frozenset[str]) -> Sources:
    """Raises NoRecords where there is something, and nothing of it can be used."""
    records: list[dict[str, Any]] = []
    others = timeless = 0
    for piece in cloud_entries.records_in(decoded(chunks)):
        if isinstance(piece, str):
            others += 1
            if not records and cloud_entries.is_gclouds_yaml(piece):
                raise NoRecords(f"{name} holds {cloud_entries.YAML_HINT}")
        elif _has_time(piece):
            records.append(piece)
        else:
            timeless += 1
    if timeless and not records:
        raise NoRecords(f"{name} holds payloads without their times; --format=json prints whole entries")
    if others and not records:
        raise NoRecords(f"{name} holds no record; {cloud_entries.HOW_TO_READ}")
    its = sum(not ids.isdisjoint((str(one.get("task_id")), str(one.get("callback_of")))) for one in records)
    without = f", and {timeless} without their times" if timeless else ""
    return Sources(records, None, (f"records: {its} of this task among {len(records)} in {name}{without}",))


def _has_time(record: Mapping[str, Any]) -> bool:
    try:
        parse_time(record.get("time"))
    except ValueError:
        return False
    return True


def from_dev(open_console: Callable[[], DevConsole], task_id: str) -> Sources:
    try:
        console = open_console()
        records, spans, whole_since = console.life(task_id)
    except RelayError as exc:
        return Sources(None, None, (f"records: none; {exc}",))
    told = f"records: {len(records)}, spans: {len(spans)}, both kept by {console.relay}"
    return Sources(records, spans, (told,), whole_since)


def from_cloud(
    open_log: Callable[[], CloudLogging], place: LogProject, documents: Sequence[Document], now: float
) -> Sources:
    """Of the whole life of a task, and of its callbacks behind it."""
    ids = [str(one["task_id"]) for one in documents]
    names = [attempt["task_name"].rpartition("/")[2] for one in documents for attempt in one["attempts"]]
    by_hand = sorted({name for name in names if name.rpartition("-")[0] not in ids})
    wanted = cloud_entries.task_filter(
        place.project,
        ids,
        by_hand,
        start=parse_time(documents[0]["created_at"]) - SLACK,
        end=_end(documents, now) + SLACK,
    )
    records: list[dict[str, Any]] = []
    try:
        for entry in open_log().entries(wanted):
            records.append(cloud_entries.as_record(entry))  # noqa: PERF401  (those before an error stay)
    except RelayError as exc:
        return Sources(records or None, None, (f"records: {'not all' if records else 'none'}; {exc}",))
    queues = sum(queue_log.is_queue_record(record) for record in records)
    told = [f"records: {len(records) - queues} in the log of project {place.project}, as {place.known_from}"]
    told.append(f"queue: {queues} entries in its own log" if queues else _QUIET_QUEUE)
    return Sources(records, None, tuple(told))


_QUIET_QUEUE = "queue: nothing in its own log (`gcloud tasks queues update QUEUE --log-sampling-ratio=1.0` turns it on)"


def log_project_of(document: Document, relay: str) -> LogProject | None:
    """Where a deployed relay's records are, by what the document says of it; None for a relay on this machine."""
    if is_local_host(urlsplit(relay).netloc):
        return None
    for attempt in document["attempts"]:
        if found := _IN_A_NAME.match(attempt["task_name"]):
            return LogProject(found[1], "the names of its tasks say")
    link = urlsplit(document["links"]["logs"])
    named = parse_qs(link.query).get("project", [])
    is_googles = link.hostname == "console.cloud.google.com" and named and re.fullmatch(_PROJECT, named[0])
    return LogProject(named[0], "its link to the log says") if is_googles else None


def _end(documents: Sequence[Document], now: float) -> float:
    ends = [parse_time(one["finished_at"]) if one["finished_at"] else now for one in documents]
    return now if documents[0]["callback"]["state"] == "pending" else max(ends)
