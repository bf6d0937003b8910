"""`traced-relay tail`: the records that matter out of those that come, one line each for a person."""

from __future__ import annotations

import json
import sys
from fnmatch import fnmatchcase
from typing import IO, TYPE_CHECKING, Any

import click

from traced_relay import flags
from traced_relay.clock import SystemClock
from traced_relay.durations import parse_time
from traced_relay.errors import InvalidSettings
from traced_relay.log_entries import record_of
from traced_relay.record_text import one_line, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST = 1_000_000  # characters in a line; Cloud Logging takes 256 KB
_SEVERITIES = ("DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "CRITICAL")


@click.command()
@click.argument("records", type=click.File(errors="replace"), required=False)
@click.option("--relay", metavar="URL", help=f"Follow the `dev` that runs there; default: {flags.LOCAL_RELAY}.")
@click.option(
    "--project",
    metavar="PROJECT",
    callback=flags.project,
    help="Follow Cloud Logging, with the environment's Google credentials.",
)
@click.option("--since", metavar="DURATION", callback=flags.optional_seconds, help="Begin so long ago, such as 10m.")
@click.option("--event", "events", metavar="NAME", multiple=True, help="Such as `task.finished`, `task.*`; repeatable.")
@click.option("--severity", type=click.Choice(_SEVERITIES, case_sensitive=False), help="This one and worse.")
@click.option("--queue", metavar="NAME", help="Of this queue alone.")
@click.option("--task", metavar="ID", help="Of this task alone; the first digits are enough.")
@click.option("--json", "as_json", is_flag=True, help="Print the records as they came.")
@click.pass_obj
def tail(
    channel: Any,
    /,
    records: IO[str] | None,
    relay: str | None,
    project: str | None,
    since: float | None,
    as_json: bool,
    **wanted: Any,
) -> None:
    """
    Show records as they come, filtered, coloured on a terminal.

    RECORDS is a file of them, `-` is stdin: JSON, one a line, as the relay prints them. Without RECORDS they are
    read from stdin where that is no terminal (a pipe, a file, even an empty one); on a terminal they are those of the
    `dev` that runs here. --relay and --project say which others: with --project those of a deployed relay, from the
    last minute on, or as far back as --since says. What is no record is left out as soon as anything is asked for.

    \b
      traced-relay tail --event 'task.*'
      traced-relay tail --project my-project --severity WARNING --since 1h
      traced-relay tail --severity WARNING records.jsonl

    Ends with 0 when a file ends, with 130 at Ctrl-C, with 2 if an option cannot be understood.
    """
    if [records, relay, project].count(None) < 2:
        raise click.UsageError("one of RECORDS, --relay and --project is enough")
    earliest = None if since is None else SystemClock().now() - since
    if project is not None:
        found = _of_project(project, earliest, channel, **wanted)
    elif records is not None or (relay is None and not sys.stdin.isatty()):
        _show_lines(records or click.open_file("-", errors="replace"), earliest, as_json=as_json, **wanted)
        return
    else:
        found = _of_dev(relay or flags.LOCAL_RELAY)
    for record in found:
        if _passes(record, earliest, **wanted):
            _show(record, json.dumps(record) if as_json else None)


def _of_dev(relay: str) -> Iterator[dict[str, Any]]:
    from traced_relay import following
    from traced_relay.dev_console import DevConsole

    try:
        console = DevConsole(relay)
    except InvalidSettings as exc:
        raise click.UsageError(str(exc)) from exc
    return following.follow_dev(console, SystemClock(), _complain)


def _of_project(project: str, earliest: float | None, channel: Any, **wanted: Any) -> Iterator[dict[str, Any]]:
    from traced_relay import following, log_filters
    from traced_relay.cloud_logging import CloudLogging

    clock = SystemClock()
    since = clock.now() - following.LATE if earliest is None else earliest
    log = CloudLogging(project, channel=channel)
    return following.follow_cloud(
        log, lambda start: log_filters.of_service(start=start, **wanted), since, clock, _complain
    )


def _show_lines(lines: IO[str], earliest: float | None, *, as_json: bool, **wanted: Any) -> None:
    sees_all = earliest is None and not any(wanted.values())
    for line in _lines(lines):
        record, text = record_of(line), line.rstrip("\n")
        if sees_all or _passes(record, earliest, **wanted):
            as_it_came = json.dumps(record) if record and not text.isprintable() else text
            _show(record or {"message": text}, as_it_came if as_json else None)


def _lines(lines: IO[str]) -> Iterator[str]:
    """Those that a record can be; of a longer one no more is kept than that."""
    while line := lines.readline(LONGEST):
        if len(line) < LONGEST or line.endswith("\n"):
            yield line
            continue
        while (rest := lines.readline(LONGEST)) and not rest.endswith("\n"):
            pass
        _complain(f"a line of more than {LONGEST} characters is passed over")


def _show(record: dict[str, Any], as_it_came: str | None) -> None:
    colour = sys.stdout.isatty()
    click.echo(one_line(record, colour=colour) if as_it_came is None else printable(as_it_came), color=colour)


def _complain(trouble: str) -> None:
    click.echo(f"traced-relay: {printable(trouble)}", err=True)


def _passes(
    entry: dict[str, Any],
    earliest: float | None,
    events: tuple[str, ...],
    severity: str | None,
    queue: str | None,
    task: str | None,
) -> bool:
    named = not events or any(fnmatchcase(str(entry.get("event", "")), event) for event in events)
    is_bad_enough = severity is None or _rank(entry.get("severity")) >= _rank(severity)
    in_queue = queue is None or entry.get("queue") == queue
    its_task = task is None or any(str(entry.get(name, "")).startswith(task) for name in ("task_id", "callback_of"))
    is_late_enough = earliest is None or _said_at(entry) >= earliest
    return bool(entry) and named and is_bad_enough and in_queue and its_task and is_late_enough


def _said_at(entry: dict[str, Any]) -> float:
    try:
        return parse_time(entry.get("time"))
    except ValueError:
        return float("inf")


def _rank(severity: object) -> int:
    return _SEVERITIES.index(str(severity)) if severity in _SEVERITIES else -1
