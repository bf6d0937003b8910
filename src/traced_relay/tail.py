"""`traced-relay tail`: the records that matter out of those that come, one line each for a person."""

from __future__ import annotations

import sys
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import click

from traced_relay.record_text import one_line, record_of

if TYPE_CHECKING:
    from collections.abc import Iterable

_SEVERITIES = ("DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "CRITICAL")


@click.command()
@click.argument("records", type=click.File(errors="replace"), default="-")
@click.option("--event", "events", metavar="NAME", multiple=True, help="Such as `task.finished`, `task.*`; repeatable.")
@click.option("--severity", type=click.Choice(_SEVERITIES, case_sensitive=False), help="This one and worse.")
@click.option("--queue", metavar="NAME", help="Of this queue alone.")
@click.option("--task", metavar="ID", help="Of this task alone; the first digits are enough.")
@click.option("--json", "as_json", is_flag=True, help="Print the records as they came.")
def tail(records: Iterable[str], as_json: bool, **wanted: Any) -> None:
    """
    Show records as they come, filtered, coloured on a terminal.

    RECORDS is a file of them, by default stdin: JSON, one a line, as the relay
    prints them; none are fetched from Cloud Logging. What is no record is left out as soon as anything is asked for.

    \b
      traced-relay dev --log-format json | traced-relay tail --event 'task.*'
      traced-relay tail --severity WARNING records.jsonl

    Ends with 0 when they end, with 2 if an option cannot be understood.
    """
    colour, sees_all = sys.stdout.isatty(), not any(wanted.values())
    for line in records:
        entry = record_of(line)
        if not (sees_all or _passes(entry, **wanted)):
            continue
        text = line.rstrip("\n") if as_json else one_line(entry or {"message": line.rstrip("\n")}, colour=colour)
        click.echo(text, color=colour)


def _passes(
    entry: dict[str, Any], events: tuple[str, ...], severity: str | None, queue: str | None, task: str | None
) -> bool:
    named = not events or any(fnmatchcase(str(entry.get("event", "")), event) for event in events)
    is_bad_enough = severity is None or _rank(entry.get("severity")) >= _rank(severity)
    in_queue = queue is None or entry.get("queue") == queue
    its_task = task is None or any(str(entry.get(name, "")).startswith(task) for name in ("task_id", "callback_of"))
    return bool(entry) and named and is_bad_enough and in_queue and its_task


def _rank(severity: object) -> int:
    return _SEVERITIES.index(str(severity)) if severity in _SEVERITIES else -1
