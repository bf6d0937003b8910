"""
Reads the records, spans and queue log entries of one task from a file, `dev` or Cloud Logging.

Missing sources are reported; the rest is used.
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

SLACK = 120.0  # seconds before the start and after the end, for clock differences and late records
_PROJECT = "[a-z][a-z0-9.:-]{3,98}"  # checked because it comes from the relay and becomes part of a filter
_PROJECT_IN_NAME = re.compile(rf"projects/({_PROJECT})/locations/")


@dataclass(frozen=True)
class Sources:
    """
    *records* or *spans* are None if their source could not be read; *notes* name the source or the error.

    A store that keeps only the latest is complete since *whole_since*.
    """

    records: list[dict[str, Any]] | None
    spans: list[FinishedSpan] | None
    notes: tuple[str, ...]
    whole_since: str = ""


@dataclass(frozen=True)
class LogProject:
    """The project whose log holds the records."""

    project: str
    known_from: str  # such as `--project`


def from_file(chunks: Iterable[bytes], name: str, ids: frozenset[str]) -> Sources:
    """Raises NoRecords if the file has content but no usable record."""
    records: list[dict[str, Any]] = []
    others = without_time = 0
    for piece in cloud_entries.records_in(decoded(chunks)):
        if isinstance(piece, str):
            others += 1
            if not records and cloud_entries.is_gclouds_yaml(piece):
                raise NoRecords(f"{name} holds {cloud_entries.YAML_HINT}")
        elif _has_time(piece):
            records.append(piece)
        else:
            without_time += 1
    if without_time and not records:
        raise NoRecords(f"{name} holds payloads without their times; --format=json prints whole entries")
    if others and not records:
        raise NoRecords(f"{name} contains no record; {cloud_entries.HOW_TO_READ}")
    own = sum(not ids.isdisjoint((str(one.get("task_id")), str(one.get("callback_of")))) for one in records)
    ignored = f", and {without_time} without their times" if without_time else ""
    return Sources(records, None, (f"records: {own} of this task among {len(records)} in {name}{ignored}",))


def _has_time(record: Mapping[str, Any]) -> bool:
    try:
        parse_time(record.get("time"))
    except ValueError:
        return False
    return True


def from_dev(open_console: Callable[[], DevConsole], task_id: str) -> Sources:
    try:
        console = open_console()
        records, spans, whole_since = console.records_and_spans(task_id)
    except RelayError as exc:
        return Sources(None, None, (f"records: none; {exc}",))
    note = f"records: {len(records)}, spans: {len(spans)}, both from {console.relay}"
    return Sources(records, spans, (note,), whole_since)


def from_cloud(
    open_log: Callable[[], CloudLogging], log_project: LogProject, documents: Sequence[Document], now: float
) -> Sources:
    """Records of the task, *documents[0]*, and of its callbacks, with the queue's log entries about them."""
    ids = [str(one["task_id"]) for one in documents]
    names = [attempt["task_name"].rpartition("/")[2] for one in documents for attempt in one["attempts"]]
    adopted = sorted({name for name in names if name.rpartition("-")[0] not in ids})
    log_filter = cloud_entries.task_filter(
        log_project.project,
        ids,
        adopted,
        start=parse_time(documents[0]["created_at"]) - SLACK,
        end=_end(documents, now) + SLACK,
    )
    records: list[dict[str, Any]] = []
    try:
        for entry in open_log().entries(log_filter):
            records.append(cloud_entries.as_record(entry))  # noqa: PERF401  (entries read before an error are kept)
    except RelayError as exc:
        return Sources(records or None, None, (f"records: {'not all' if records else 'none'}; {exc}",))
    queues = sum(queue_log.is_queue_record(record) for record in records)
    source = f"the log of project {log_project.project}, known from {log_project.known_from}"
    queue_note = f"queue: {queues} entries in its own log" if queues else _NO_QUEUE_LOG
    return Sources(records, None, (f"records: {len(records) - queues} in {source}", queue_note))


_NO_QUEUE_LOG = (
    "queue: no entry in its own log (`gcloud tasks queues update QUEUE --log-sampling-ratio=1.0` enables it)"
)


def log_project_of(document: Document, relay: str) -> LogProject | None:
    """The project that the document's task names, or else its link to the log, name; None for a local relay."""
    if is_local_host(urlsplit(relay).netloc):
        return None
    for attempt in document["attempts"]:
        if found := _PROJECT_IN_NAME.match(attempt["task_name"]):
            return LogProject(found[1], "its task names")
    link = urlsplit(document["links"]["logs"])
    named = parse_qs(link.query).get("project", [])
    is_valid = link.hostname == "console.cloud.google.com" and named and re.fullmatch(_PROJECT, named[0])
    return LogProject(named[0], "its link to the log") if is_valid else None


def _end(documents: Sequence[Document], now: float) -> float:
    ends = [parse_time(one["finished_at"]) if one["finished_at"] else now for one in documents]
    return now if documents[0]["callback"]["state"] == "pending" else max(ends)
