"""The commands for tasks: `enqueue`, `status`, `list`, `cancel`, `redrive`, `resend-callback`."""

from __future__ import annotations

import json
import os
import sys
from itertools import islice
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

import click

from traced_relay.cli import options
from traced_relay.client import task_text
from traced_relay.errors import RelayError
from traced_relay.formats import strict_json
from traced_relay.formats.durations import parse_duration, parse_time
from traced_relay.formats.terminal import printable
from traced_relay.runtime.clock import SystemClock, pause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from traced_relay.client.client import Client, Document

_DEFAULT_COLUMNS = 80


def _print(document: Any, text: Iterable[str], *, as_json: bool) -> None:
    for line in [json.dumps(document)] if as_json else text:
        click.echo(printable(line))


@click.command(epilog="Exit status: 0 if the call is enqueued (--wait: succeeds), 1 if not, 2 for invalid options.")
@click.argument("url")
@click.option("--method", metavar="METHOD", help="HTTP method. Default: POST.")
@click.option("--data", metavar="TEXT", help="Body: JSON, else text; sent unchanged with a content-type header.")
@options.header_option
@click.option("--delay", metavar="DURATION", help="Delay before the first attempt, such as 10m.")
@click.option("--timeout", metavar="DURATION", help="Timeout of one attempt.")
@click.option("--queue", metavar="NAME", help="Queue to use. Default: the relay's first queue.")
@click.option(
    "--route",
    type=click.Choice(["relay", "direct"]),
    help="relay: through the relay (default). direct: Cloud Tasks calls URL itself, without status or --wait.",
)
@click.option(
    "--label", "labels", metavar="NAME=VALUE", multiple=True, callback=options.pairs, help="Label; repeatable."
)
@click.option("--max-attempts", metavar="N", type=int, help="Maximum number of attempts.")
@click.option(
    "--idempotent/--not-idempotent",
    default=None,
    help="Whether the relay may retry after a timeout or a lost response. Default: depends on the method.",
)
@click.option("--callback", metavar="URL", help="URL to notify when the task ends.")
@click.option("--idempotency-key", metavar="KEY", help="The same key returns the same task. Default: a new key.")
@click.option("--wait", is_flag=True, help="Wait until the task ends.")
@options.request_options
def enqueue(url: str, as_json: bool, wait: bool, idempotency_key: str | None, client: Client, **given: Any) -> None:
    """Enqueue a call to URL and print its task_id and trace_id."""
    if wait and given["route"] == "direct":
        raise click.UsageError("--wait requires a status, which a call with --route direct does not have")
    receipt = client.enqueue(url, idempotency_key=idempotency_key, **_call_fields(**given))
    ids = (f"task_id   {receipt['task_id']}", f"trace_id  {receipt['trace_id']}")
    _print(receipt, ids, as_json=as_json)
    if wait:
        document = _wait_until_ended(client, receipt["task_id"])
        _print(document, [f"state     {task_text.state_text(document)}"], as_json=as_json)
        if document["state"] != "succeeded":
            sys.exit(1)


def _call_fields(
    *, data: str | None, headers: dict[str, str], max_attempts: int | None, callback: str | None, **rest: Any
) -> Any:
    fields = rest | {"headers": headers}
    if data is not None:
        fields["body"] = data if "content-type" in headers else _json_or_text(data)
        if fields["body"] is None:  # the API reads null as "no body"
            fields |= {"body": "null", "headers": {"content-type": "application/json", **headers}}
    if max_attempts is not None:
        fields["retry"] = {"max_attempts": max_attempts}
    if callback is not None:
        fields["callback"] = {"url": callback}
    return {name: value for name, value in fields.items() if name == "body" or value not in (None, {})}


def _json_or_text(text: str) -> Any:
    try:
        return strict_json.loads(text.encode())
    except (ValueError, RecursionError):
        return text


def _wait_until_ended(client: Client, task_id: str) -> Document:
    """
    The document of the ended task.

    Progress goes to stderr: on a terminal one line that is redrawn, elsewhere one line per change.
    """
    redraws, clock, shown = sys.stderr.isatty(), SystemClock(), None
    clear = "\r\x1b[2K" if redraws else ""
    document: Document = {}

    def report_outage(why: str) -> None:
        click.echo(clear + printable(f"the relay cannot be reached; retrying ({why})"), err=True)

    for document in client.follow(task_id, patience=inf, trouble=report_outage):
        text, step = printable(task_text.progress(document, clock.now())), (document["state"], document["attempt"])
        if redraws:
            click.echo(f"{clear}{text[: _columns() - 1]}", nl=False, err=True)
        elif step != shown:
            click.echo(text, err=True)
        shown = step
    if redraws:
        click.echo(clear, nl=False, err=True)
    return document


def _columns() -> int:
    """Current width of the terminal; a longer line would wrap and could not be redrawn."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or _DEFAULT_COLUMNS
    except OSError:
        return _DEFAULT_COLUMNS


@click.command(epilog=options.REQUEST_STATUS)
@click.argument("task_id", metavar="ID")
@options.request_options
def status(task_id: str, as_json: bool, client: Client) -> None:
    """Print the state of a task; --json prints its whole document."""
    document = client.status(task_id)
    _print(document, task_text.lines(document), as_json=as_json)


def _time(_: click.Context, option: click.Parameter, text: str | None) -> str | None:
    if text is not None:
        options.parsed(option, _check_time, text)
    return text


def _check_time(text: str) -> None:
    try:
        parse_duration(text)
    except ValueError:
        try:
            parse_time(text)
        except ValueError as exc:
            raise ValueError(f'{exc}, or a duration before now such as "2h"') from None


@click.command("list", epilog=options.REQUEST_STATUS)
@click.option("--state", metavar="STATE", help="queued, running, waiting, succeeded, failed or cancelled.")
@click.option("--queue", metavar="NAME", help="Name of the queue.")
@click.option("--rule", metavar="NAME", help="Name of the downstream in relay.yaml.")
@click.option("--reason", metavar="REASON", help="Such as timeout or http_503.")
@click.option("--version", metavar="VERSION", help="Version of the relay that ran the last attempt.")
@click.option(
    "--since", metavar="TIME", callback=_time, help="Earliest creation: RFC 3339 time, or duration such as 2h."
)
@click.option("--limit", metavar="N", default=50, type=click.IntRange(0), help="Maximum number of tasks; 0 lists all.")
@options.request_options
def list_(as_json: bool, limit: int, client: Client, **given: Any) -> None:
    """
    List tasks, newest first, one per line, each line starting with the id.

    \b
      traced-relay list --state failed --since 2h --limit 0 | traced-relay redrive - --rate 5
    """
    filters = {name: value for name, value in given.items() if value is not None}
    found = client.list(page_size=min(limit or 200, 200), **filters)
    for document in islice(found, limit or None):
        _print(document, [task_text.one_line(document)], as_json=as_json)


def _finite(_: click.Context, option: click.Parameter, number: float) -> float:
    if not isfinite(number):
        raise click.BadParameter("must be a finite number", param=option)
    return number


def _action(name: str, summary: str, act: Callable[[Client, str], Document]) -> click.Command:
    """A command that acts on each given task; a refusal is printed, and the command goes on with the next task."""
    rates = click.FloatRange(0, min_open=True)

    @click.command(name, help=f"{summary} `-` reads ids from stdin.", epilog=options.REQUEST_STATUS)
    @click.argument("ids", metavar="ID...", nargs=-1, required=True)
    @click.option(
        "--rate", metavar="N", type=rates, default=10.0, callback=_finite, help="Maximum requests per second."
    )
    @options.request_options
    def action(ids: tuple[str, ...], rate: float, as_json: bool, client: Client) -> None:
        refused = False
        for task_id in _paced(_task_ids(ids), rate):
            try:
                document = act(client, task_id)
            except RelayError as exc:
                refused = True
                click.echo(f"traced-relay: {printable(task_id)}: {printable(str(exc))}", err=True)
            else:
                _print(document, [task_text.one_line(document)], as_json=as_json)
        if refused:
            sys.exit(1)

    return action


def _task_ids(arguments: Iterable[str]) -> Iterator[str]:
    """The arguments; `-` stands for the first word of each line of stdin."""
    for argument in arguments:
        if argument == "-":
            yield from (line.split()[0] for line in click.open_file("-", errors="replace") if line.strip())
        else:
            yield argument


def _paced(ids: Iterable[str], rate: float) -> Iterator[str]:
    """The ids, at most *rate* per second."""
    clock, due = SystemClock(), 0.0
    for task_id in ids:
        pause(clock, due)
        due = clock.monotonic() + 1 / rate
        yield task_id


COMMANDS: tuple[click.Command, ...] = (
    enqueue,
    status,
    list_,
    _action("cancel", "Cancel queued, waiting or running tasks.", lambda client, id_: client.cancel(id_)),
    _action("redrive", "Start failed or cancelled tasks again.", lambda client, id_: client.redrive(id_)),
    _action("resend-callback", "Send callbacks of ended tasks again.", lambda client, id_: client.resend_callback(id_)),
)
