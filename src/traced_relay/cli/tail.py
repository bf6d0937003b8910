"""`traced-relay tail`: the records that matter out of those that come, one line each for a person."""

from __future__ import annotations

import re
import sys
from fnmatch import fnmatchcase
from io import BufferedReader
from select import select
from typing import IO, TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from traced_relay.cli import options
from traced_relay.errors import InvalidSettings, NoRecords
from traced_relay.formats.durations import parse_time
from traced_relay.formats.terminal import as_json as json_of
from traced_relay.formats.terminal import printable
from traced_relay.logs import cloud_entries
from traced_relay.logs.log_input import LogInput, decoded
from traced_relay.logs.terminal import one_line
from traced_relay.runtime.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONGEST = 1_000_000  # characters in a line or an entry; Cloud Logging takes 256 KB
CHUNK = 65_536  # bytes
SILENCE = 1.0  # seconds
PATIENT_LINES = 20  # that are no records, before a filter that shows nothing of them says so
_SEVERITIES = ("DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "CRITICAL", "ALERT", "EMERGENCY")


class _Records(click.File):
    """A file of records; a task's id is taken for the name of a file often enough to say what to type instead."""

    def fail(self, message: str, param: click.Parameter | None = None, ctx: click.Context | None = None) -> Any:
        name = re.match("'([0-9a-f]{4,32})'", message)
        hint = f"; --task {name[1]} shows the records of that task" if name else ""
        super().fail(message + hint, param, ctx)


@click.command()
@click.argument("records", type=_Records("rb"), required=False)
@click.option(
    "--relay",
    metavar="URL",
    envvar="RELAY_URL",
    show_envvar=True,
    help=f"Follow the `dev` that runs there; default: {options.LOCAL_RELAY}.",
)
@click.option(
    "--project",
    metavar="PROJECT",
    callback=options.project,
    help="Follow Cloud Logging, with the environment's Google credentials.",
)
@click.option("--since", metavar="DURATION", callback=options.optional_seconds, help="Begin so long ago, such as 10m.")
@click.option("--event", "events", metavar="NAME", multiple=True, help="Such as `task.finished`, `task.*`; repeatable.")
@click.option("--severity", type=click.Choice(_SEVERITIES, case_sensitive=False), help="This one and worse.")
@click.option("--queue", metavar="NAME", help="Of this queue alone.")
@click.option("--task", metavar="ID", help="Of this task alone; the first digits are enough.")
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON, one a line.")
@click.pass_obj
def tail(
    channel: Any,
    /,
    records: IO[bytes] | None,
    relay: str | None,
    project: str | None,
    since: float | None,
    as_json: bool,
    **wanted: Any,
) -> None:
    """
    Show records as they come, filtered, coloured on a terminal.

    Without RECORDS they are those of the `dev` that runs here. --relay and --project say which others: with --project
    those of a deployed relay, from the last minute on, or as far back as --since says. It follows them until Ctrl-C,
    also where there is no terminal, and then says so.

    RECORDS is a file, `-` is stdin, which is read without RECORDS, too, if something is there (a pipe or a file that
    is not empty). It holds records as the relay prints them, also behind what `kubectl logs` or `docker compose logs`
    put in front, or entries as `gcloud logging read` and `gcloud beta logging tail` print them with --format=json.
    What is no record is left out as soon as anything is asked for.

    \b
      traced-relay tail --event 'task.*'
      traced-relay tail --project my-project --severity WARNING --since 1h
      traced-relay tail --severity WARNING records.jsonl
      gcloud beta logging tail --format=json | traced-relay tail -

    Ends with 0 when a file ends, with 1 if it held no record, with 130 at Ctrl-C, with 2 if an option
    cannot be understood.
    """
    preset = options.LOCAL_RELAY
    if relay is not None and click.get_current_context().get_parameter_source("relay") is ParameterSource.ENVIRONMENT:
        preset, relay = relay, None
    if [records, relay, project].count(None) < 2:
        raise click.UsageError("one of RECORDS, --relay and --project is enough")
    earliest = None if since is None else SystemClock().now() - since
    if (records, relay, project) == (None, None, None):
        records = _piped()
    if records is not None:
        _show_input(records, earliest, as_json=as_json, **wanted)
        return
    if project is not None:
        found = _of_project(project, earliest, channel, **wanted)
    else:
        found = _of_dev(relay or preset)
        if relay is None and not (sys.stdin and sys.stdin.isatty() and sys.stdout.isatty()):
            _complain(f"following the records of {preset}; --relay, --project and RECORDS name others")
    for record in found:
        if _passes(record, earliest, **wanted):
            _show(json_of(record) if as_json else record)


def _piped() -> IO[bytes] | None:
    """What is on stdin, if there is something: a terminal is nothing, and so is /dev/null, or a pipe that is empty."""
    if sys.stdin is None or sys.stdin.isatty():
        return None
    stdin: IO[bytes] = sys.stdin.buffer
    if isinstance(stdin, BufferedReader):
        if not select([stdin], [], [], SILENCE)[0]:
            _complain("reading records from stdin, where nothing has come yet; --relay and --project follow a relay's")
        if not stdin.peek(1):
            return None
    return stdin


def _of_dev(relay: str) -> Iterator[dict[str, Any]]:
    from traced_relay.cli import follow
    from traced_relay.client.dev_console import DevConsole

    try:
        console = DevConsole(relay)
    except InvalidSettings as exc:
        raise click.UsageError(str(exc)) from exc
    return follow.follow_dev(console, SystemClock(), _complain)


def _of_project(project: str, earliest: float | None, channel: Any, **wanted: Any) -> Iterator[dict[str, Any]]:
    from traced_relay.cli import follow
    from traced_relay.logs import cloud_entries
    from traced_relay.logs.cloud_logging import CloudLogging

    clock = SystemClock()
    since = clock.now() - follow.LATE if earliest is None else earliest
    log = CloudLogging(project, channel=channel)
    return follow.follow_cloud(
        log, lambda start: cloud_entries.of_service(start=start, **wanted), since, clock, _complain
    )


def _show_input(source: IO[bytes], earliest: float | None, *, as_json: bool, **wanted: Any) -> None:
    read: Callable[[int], bytes] = getattr(source, "read1", source.read)  # what there is, without waiting for more
    sees_all = earliest is None and not any(wanted.values())
    records, others, has_told, name = 0, 0, False, options.name_of(source)
    for piece in LogInput(cloud_entries.records_of, LONGEST, _complain).pieces(decoded(iter(lambda: read(CHUNK), b""))):
        if isinstance(piece, str):
            others += 1
            if not records and cloud_entries.is_gclouds_yaml(piece):
                raise NoRecords(f"{name} holds {cloud_entries.YAML_TOLD}")
            if sees_all:
                _show(piece if as_json else {"message": piece})
            elif not records and others == PATIENT_LINES:
                _complain(f"no record among the first {others} lines of {name}; {cloud_entries.HOW_TO_READ}")
            continue
        records += 1
        if piece.get("time") == "" and not has_told and (earliest is not None or wanted["severity"]):
            _complain(f"{name} holds payloads without time and severity; --format=json prints whole entries")
            has_told = True
        if sees_all or _passes(piece, earliest, **wanted):
            _show(json_of(piece) if as_json else piece)
    if not records:
        raise NoRecords(f"{name} holds no record{f'; {cloud_entries.HOW_TO_READ}' if others else ''}")


def _show(shown: dict[str, Any] | str) -> None:
    colour = sys.stdout.isatty()
    click.echo(printable(shown) if isinstance(shown, str) else one_line(shown, colour=colour), color=colour)


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
