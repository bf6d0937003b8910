"""`traced-relay tail`: filters records as they arrive and prints one line for each."""

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

MAX_LENGTH = 1_000_000  # characters in a line or an entry; Cloud Logging takes 256 KB
CHUNK = 65_536  # bytes
STDIN_WAIT = 1.0  # seconds that stdin has to deliver its first byte
HINT_AFTER = 20  # lines that are not records, before a filtered `tail` prints a hint
_SEVERITIES = ("DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "CRITICAL", "ALERT", "EMERGENCY")


class _Records(click.File):
    """A file of records; for a missing file named like a task id the error suggests --task."""

    def fail(self, message: str, param: click.Parameter | None = None, ctx: click.Context | None = None) -> Any:
        name = re.match("'([0-9a-f]{4,32})'", message)
        hint = f"; --task {name[1]} shows the records of that task" if name else ""
        super().fail(message + hint, param, ctx)


@click.command(
    epilog="Exit status: 0 at the end of the input, 1 if nothing can be read, 2 for invalid options, 130 on Ctrl-C."
)
@click.argument("records", type=_Records("rb"), required=False)
@click.option(
    "--relay",
    metavar="URL",
    envvar="RELAY_URL",
    show_envvar=True,
    help=f"URL of a `traced-relay dev` to follow. Default: {options.LOCAL_RELAY}.",
)
@click.option("--project", metavar="P", callback=options.project, help="Project whose Cloud Logging to follow.")
@click.option("--since", metavar="DURATION", callback=options.seconds, help="Age of the first record, such as 10m.")
@click.option(
    "--event", "events", metavar="NAME", multiple=True, help="Event or pattern, such as `task.*`; repeatable."
)
@click.option("--severity", type=click.Choice(_SEVERITIES, case_sensitive=False), help="Minimum severity.")
@click.option("--queue", metavar="NAME", help="Name of the queue.")
@click.option("--task", metavar="ID", help="Task id, or its first digits.")
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON, one per line.")
@click.pass_obj
def tail(
    channel: Any,
    /,
    records: IO[bytes] | None,
    relay: str | None,
    project: str | None,
    since: float | None,
    as_json: bool,
    **filters: Any,
) -> None:
    """
    Show log records as they arrive, filtered, in colour on a terminal.

    Without RECORDS, follows the `dev` on this machine until Ctrl-C. --relay follows another `dev`, --project a deployed
    relay through Cloud Logging (with Application Default Credentials), from one minute ago or from --since. Without a
    terminal, prints which relay it follows.

    RECORDS is a file; `-` is stdin. Without RECORDS, stdin is read if it has data (a pipe or a file that is not empty).
    Input formats: records as the relay prints them, with or without the prefixes of `kubectl logs` and
    `docker compose logs`; entries of `gcloud logging read` and `gcloud beta logging tail` with --format=json. Lines
    that are not records are shown only without filters.

    \b
      traced-relay tail --event 'task.*'
      traced-relay tail --project my-project --severity WARNING --since 1h
      traced-relay tail --severity WARNING records.jsonl
      gcloud beta logging tail --format=json | traced-relay tail -
    """
    preset = options.LOCAL_RELAY
    if relay is not None and click.get_current_context().get_parameter_source("relay") is ParameterSource.ENVIRONMENT:
        preset, relay = relay, None
    if [records, relay, project].count(None) < 2:
        raise click.UsageError("RECORDS, --relay and --project are mutually exclusive")
    earliest = None if since is None else SystemClock().now() - since
    if (records, relay, project) == (None, None, None):
        records = _stdin_with_data()
    if records is not None:
        _print_input(records, earliest, as_json=as_json, **filters)
        return
    if project is not None:
        found = _records_of_project(project, earliest, channel, **filters)
    else:
        found = _records_of_dev(relay or preset)
        if relay is None and not (sys.stdin and sys.stdin.isatty() and sys.stdout.isatty()):
            _warn(f"following {preset}; use --relay, --project or RECORDS for other records")
    for record in found:
        if _passes(record, earliest, **filters):
            _print(json_of(record) if as_json else record)


def _stdin_with_data() -> IO[bytes] | None:
    """Stdin if it has data; None for a terminal, /dev/null or a pipe that is closed without data."""
    if sys.stdin is None or sys.stdin.isatty():
        return None
    stdin: IO[bytes] = sys.stdin.buffer
    if isinstance(stdin, BufferedReader):
        if not select([stdin], [], [], STDIN_WAIT)[0]:
            _warn(f"nothing came on stdin within {STDIN_WAIT:g} s; `tail -` reads it, however late records come")
            return None
        if not stdin.peek(1):
            return None
    return stdin


def _records_of_dev(relay: str) -> Iterator[dict[str, Any]]:
    from traced_relay.cli import follow
    from traced_relay.client.dev_console import DevConsole

    try:
        console = DevConsole(relay)
    except InvalidSettings as exc:
        raise click.UsageError(str(exc)) from exc
    return follow.follow_dev(console, SystemClock(), _warn)


def _records_of_project(project: str, earliest: float | None, channel: Any, **filters: Any) -> Iterator[dict[str, Any]]:
    from traced_relay.cli import follow
    from traced_relay.logs.cloud_logging import CloudLogging

    clock = SystemClock()
    since = clock.now() - follow.LATE if earliest is None else earliest
    log = CloudLogging(project, channel=channel)
    return follow.follow_cloud(
        log, lambda start: cloud_entries.service_filter(start=start, **filters), since, clock, _warn
    )


def _print_input(source: IO[bytes], earliest: float | None, *, as_json: bool, **filters: Any) -> None:
    # `read1` returns available data without waiting for more.
    read: Callable[[int], bytes] = getattr(source, "read1", source.read)
    is_unfiltered = earliest is None and not any(filters.values())
    records, others, has_warned, name = 0, 0, False, options.name_of(source)
    for piece in LogInput(cloud_entries.records_of, MAX_LENGTH, _warn).pieces(decoded(iter(lambda: read(CHUNK), b""))):
        if isinstance(piece, str):
            others += 1
            if not records and cloud_entries.is_gclouds_yaml(piece):
                raise NoRecords(f"{name} holds {cloud_entries.YAML_HINT}")
            if is_unfiltered:
                _print(piece if as_json else {"message": piece})
            elif not records and others == HINT_AFTER:
                _warn(f"no record in the first {others} lines of {name}; {cloud_entries.HOW_TO_READ}")
            continue
        records += 1
        if piece.get("time") == "" and not has_warned and (earliest is not None or filters["severity"]):
            _warn(f"{name} contains payloads without time and severity; use --format=json")
            has_warned = True
        if is_unfiltered or _passes(piece, earliest, **filters):
            _print(json_of(piece) if as_json else piece)
    if not records:
        raise NoRecords(f"{name} contains no record{f'; {cloud_entries.HOW_TO_READ}' if others else ''}")


def _print(record: dict[str, Any] | str) -> None:
    colour = sys.stdout.isatty()
    click.echo(printable(record) if isinstance(record, str) else one_line(record, colour=colour), color=colour)


def _warn(message: str) -> None:
    click.echo(f"traced-relay: {printable(message)}", err=True)


def _passes(
    entry: dict[str, Any],
    earliest: float | None,
    events: tuple[str, ...],
    severity: str | None,
    queue: str | None,
    task: str | None,
) -> bool:
    has_event = not events or any(fnmatchcase(str(entry.get("event", "")), event) for event in events)
    has_severity = severity is None or _rank(entry.get("severity")) >= _rank(severity)
    is_in_queue = queue is None or entry.get("queue") == queue
    is_of_task = task is None or any(str(entry.get(name, "")).startswith(task) for name in ("task_id", "callback_of"))
    is_recent = earliest is None or _time_of(entry) >= earliest
    return bool(entry) and has_event and has_severity and is_in_queue and is_of_task and is_recent


def _time_of(entry: dict[str, Any]) -> float:
    try:
        return parse_time(entry.get("time"))
    except ValueError:
        return float("inf")


def _rank(severity: object) -> int:
    return _SEVERITIES.index(str(severity)) if severity in _SEVERITIES else -1
