"""`traced-relay explain`: draws the timeline of one task from its document, records and spans."""

from __future__ import annotations

import json
import shutil
import sys
from typing import IO, TYPE_CHECKING, Any

import click

from traced_relay.cli import options
from traced_relay.errors import UnexpectedResponse
from traced_relay.formats.terminal import printable
from traced_relay.runtime.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from traced_relay.client.client import Client, Document
    from traced_relay.timeline.sources import LogProject, Sources

CHUNK = 65_536  # bytes
_MIN_WIDTH, _MAX_WIDTH = 60, 140
# Raised by records of another program: missing fields, or fields of other types.
_MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@click.command(epilog=options.REQUEST_STATUS)
@click.argument("task_id", metavar="ID")
@click.option(
    "--records",
    metavar="FILE",
    type=click.File("rb"),
    help="Records printed by the relay or by `gcloud logging read --format=json`; `-` reads stdin.",
)
@click.option(
    "--project", metavar="P", callback=options.project, help="Project whose log to read. Default: from the document."
)
@options.request_options
@click.pass_obj
def explain(
    channel: Any, /, task_id: str, records: IO[bytes] | None, project: str | None, client: Client, as_json: bool
) -> None:
    """
    Draw the timeline of one task.

    Shows enqueue, waits, dispatches, attempts with their blame and phases, the callback, and which records and spans
    are missing. The records come from `traced-relay dev`, from Cloud Logging (with the queue's log, if enabled) or from
    a file; without them, attempts and waits come from the task's document.
    """
    from traced_relay.timeline import build, sources, waterfall

    now = SystemClock().now()
    document = client.status(task_id)
    callbacks = list(client.callbacks(document))
    log_project = sources.LogProject(project, "--project") if project else sources.log_project_of(document, client.url)
    found = _sources((document, *callbacks), records, log_project, client.url, channel, now)
    try:
        built = build.build(
            document,
            found.records,
            found.spans,
            callbacks=callbacks,
            now=now if build.is_ongoing(document) else None,
            whole_since=found.whole_since,
        )
    except _MALFORMED as exc:
        raise UnexpectedResponse(f"{found.notes[0]}, not in a relay's format; use --records FILE instead") from exc
    if as_json:
        click.echo(json.dumps(build.to_json(built) | {"links": document["links"], "notes": found.notes}))
        return
    width = min(max(shutil.get_terminal_size((100, 24)).columns, _MIN_WIDTH), _MAX_WIDTH)
    click.echo(waterfall.render(built, width=width, colour=sys.stdout.isatty()))
    for line in (*found.notes, f"trace: {document['links']['trace']}"):
        click.echo(printable(line))


def _sources(
    documents: Sequence[Document],
    records: IO[bytes] | None,
    log_project: LogProject | None,
    relay_url: str,
    channel: Any,
    now: float,
) -> Sources:
    """Records and spans of the task and its callbacks: from the file if given, else from `dev` or Cloud Logging."""
    from traced_relay.timeline import sources

    if records is not None:
        chunks = iter(lambda: records.read(CHUNK), b"")
        return sources.from_file(chunks, options.name_of(records), frozenset(str(one["task_id"]) for one in documents))
    if log_project is None:
        from traced_relay.client.dev_console import DevConsole

        return sources.from_dev(lambda: DevConsole(relay_url), documents[0]["task_id"])
    from traced_relay.logs.cloud_logging import CloudLogging

    return sources.from_cloud(lambda: CloudLogging(log_project.project, channel=channel), log_project, documents, now)
