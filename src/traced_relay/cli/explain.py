"""`traced-relay explain`: one task's whole life on one axis of time, from all that can be read of it."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any

import click

from traced_relay.cli import options
from traced_relay.errors import UnexpectedAnswer
from traced_relay.formats.terminal import printable
from traced_relay.runtime.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from traced_relay.client.client import Document
    from traced_relay.timeline.sources import LogProject, Sources

CHUNK = 65_536  # bytes
_NARROWEST, _WIDEST = 60, 140
# What reading records raises that somebody else wrote: fields missing, or of other types.
_ODD = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@click.command(epilog=options.STATUS)
@click.argument("task_id", metavar="ID")
@click.option(
    "--records",
    type=click.File("rb"),
    help="Records as the relay prints them, or as gcloud logging does with --format=json; `-`: from stdin.",
)
@click.option(
    "--project",
    metavar="PROJECT",
    callback=options.project,
    help="Whose log has them; default: what the document's names say.",
)
@options.relay_options
@click.pass_obj
def explain(
    channel: Any,
    /,
    task_id: str,
    records: IO[bytes] | None,
    project: str | None,
    relay: str,
    as_json: bool,
    **who: Any,
) -> None:
    """
    Draw the whole life of one task on one time axis.

    Enqueue, waits, dispatches, attempts with whom to blame and what their time was spent on, callback, and what is
    missing. The records come from `traced-relay dev`, from Cloud Logging (with the log of the queue, where it is on),
    or from a file; without them the task's document still tells of attempts and waits.
    """
    from traced_relay.timeline import build, sources, waterfall

    client, now = options.client(relay=relay, **who), SystemClock().now()
    document = client.status(task_id)
    callbacks = list(client.callbacks(document))
    place = sources.LogProject(project, "--project says") if project else sources.log_project_of(document, relay)
    found = _evidence((document, *callbacks), records, place, relay, channel, now)
    is_going_on = document["finished_at"] is None or document["callback"]["state"] == "pending"
    try:
        built = build.build(
            document,
            found.records,
            found.spans,
            callbacks=callbacks,
            now=now if is_going_on else None,
            whole_since=found.whole_since,
        )
    except _ODD as exc:
        raise UnexpectedAnswer(f"{found.told[0]}, not as a relay writes them; --records FILE names others") from exc
    if as_json:
        click.echo(json.dumps(asdict(built) | {"links": document["links"], "told": found.told}))
        return
    width = min(max(shutil.get_terminal_size((100, 24)).columns, _NARROWEST), _WIDEST)
    click.echo(waterfall.render(built, width=width, colour=sys.stdout.isatty()))
    for line in (*found.told, f"look at: {document['links']['trace']}"):
        click.echo(printable(line))


def _evidence(
    documents: Sequence[Document],
    records: IO[bytes] | None,
    place: LogProject | None,
    relay: str,
    channel: Any,
    now: float,
) -> Sources:
    """Of the task and its callbacks: from the file if there is one, else from where the relay's records are."""
    from traced_relay.timeline import sources

    if records is not None:
        chunks = iter(lambda: records.read(CHUNK), b"")
        return sources.from_file(chunks, options.name_of(records), frozenset(str(one["task_id"]) for one in documents))
    if place is None:
        from traced_relay.client.dev_console import DevConsole

        return sources.from_dev(lambda: DevConsole(relay), documents[0]["task_id"])
    from traced_relay.logs.cloud_logging import CloudLogging

    return sources.from_cloud(lambda: CloudLogging(place.project, channel=channel), place, documents, now)
