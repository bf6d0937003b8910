"""The commands that ask a relay: its verbs, and following a call to its end."""

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

_USUAL_COLUMNS = 80


def _say(document: Any, text: Iterable[str], *, as_json: bool) -> None:
    for line in [json.dumps(document)] if as_json else text:
        click.echo(printable(line))


@click.command(
    epilog="Ends with 0 if the call was enqueued (--wait: if it succeeded), with 1 if not, with 2 for a mistake here."
)
@click.argument("url")
@click.option("--method", metavar="METHOD", help="Default: POST.")
@click.option("--data", metavar="TEXT", help="The body: JSON, or else text; with a content-type the text as it is.")
@click.option(
    "--header", "headers", metavar="'NAME: VALUE'", multiple=True, callback=options.headers, help="Repeatable."
)
@click.option("--delay", metavar="DURATION", help="Start after so long, such as 10m.")
@click.option("--timeout", metavar="DURATION", help="Of one attempt.")
@click.option("--queue", metavar="NAME", help="Default: the relay's first.")
@click.option(
    "--route",
    type=click.Choice(["relay", "direct"]),
    help="relay (default), or direct: Cloud Tasks calls URL itself, without status or --wait.",
)
@click.option("--label", "labels", metavar="NAME=VALUE", multiple=True, callback=options.pairs, help="Repeatable.")
@click.option("--max-attempts", metavar="N", type=int, help="How often it is tried at most.")
@click.option(
    "--idempotent/--not-idempotent",
    default=None,
    help="Whether the call may be repeated, after a timeout too. Default: by its method.",
)
@click.option("--callback", metavar="URL", help="Who is told of its end.")
@click.option("--idempotency-key", metavar="KEY", help="The same key gives the same task; default: a new one.")
@click.option("--wait", is_flag=True, help="Follow it to its end.")
@options.relay_options
def enqueue(
    url: str,
    as_json: bool,
    wait: bool,
    idempotency_key: str | None,
    relay: str,
    audience: str | None,
    account: str | None,
    id_token: Callable[[], str] | None,
    **given: Any,
) -> None:
    """Hand a call of URL to a relay; print its task_id and trace_id."""
    if wait and given["route"] == "direct":
        raise click.UsageError("--wait needs a status, and a call with --route direct has none")
    client = options.client(relay, audience, account, id_token)
    receipt = client.enqueue(url, idempotency_key=idempotency_key, **_fields(**given))
    ids = (f"task_id   {receipt['task_id']}", f"trace_id  {receipt['trace_id']}")
    _say(receipt, ids, as_json=as_json)
    if wait:
        document = _follow(client, receipt["task_id"])
        _say(document, [f"state     {task_text.state_text(document)}"], as_json=as_json)
        if document["state"] != "succeeded":
            sys.exit(1)


def _fields(
    *, data: str | None, headers: dict[str, str], max_attempts: int | None, callback: str | None, **rest: Any
) -> Any:
    fields = rest | {"headers": headers}
    if data is not None:
        fields["body"] = data if "content-type" in headers else _json_or_text(data)
        if fields["body"] is None:  # to the API null is no body
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


def _follow(client: Client, task_id: str) -> Document:
    """The document at the end; on the way, on stderr, one line that moves on a terminal, else one for every change."""
    moves, clock, shown = sys.stderr.isatty(), SystemClock(), None
    document: Document = {}

    def trouble(why: str) -> None:
        click.echo(("\r\x1b[2K" if moves else "") + printable(f"the relay is away; asking again ({why})"), err=True)

    for document in client.follow(task_id, patience=inf, trouble=trouble):
        text, step = printable(task_text.progress(document, clock.now())), (document["state"], document["attempt"])
        if moves:
            click.echo(f"\r\x1b[2K{text[: _columns() - 1]}", nl=False, err=True)
        elif step != shown:
            click.echo(text, err=True)
        shown = step
    if moves:
        click.echo("\r\x1b[2K", nl=False, err=True)
    return document


def _columns() -> int:
    """As wide as the terminal is now: of a line that is wider only the last part could be drawn over."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or _USUAL_COLUMNS
    except OSError:
        return _USUAL_COLUMNS


@click.command(epilog=options.STATUS)
@click.argument("task_id", metavar="ID")
@options.relay_options
def status(task_id: str, as_json: bool, **where: Any) -> None:
    """Say how a task stands; --json prints its whole document."""
    document = options.client(**where).status(task_id)
    _say(document, task_text.lines(document), as_json=as_json)


def _time(_: click.Context, option: click.Parameter, text: str | None) -> str | None:
    if text is not None:
        options.read(option, _check_time, text)
    return text


def _check_time(text: str) -> None:
    try:
        parse_duration(text)
    except ValueError:
        try:
            parse_time(text)
        except ValueError as exc:
            raise ValueError(f'{exc}, or a duration before now such as "2h"') from None


@click.command("list", epilog=options.STATUS)
@click.option("--state", help="queued, running, waiting, succeeded, failed or cancelled.")
@click.option("--queue")
@click.option("--rule", help="The downstream of relay.yaml.")
@click.option("--reason", help="Such as timeout or http_503.")
@click.option("--version", help="Of the relay that ran it last.")
@click.option("--since", metavar="TIME", callback=_time, help="An RFC 3339 time, or a duration before now, such as 2h.")
@click.option("--limit", default=50, type=click.IntRange(0), help="How many at most; 0: all.")
@options.relay_options
def list_(
    as_json: bool,
    limit: int,
    relay: str,
    audience: str | None,
    account: str | None,
    id_token: Callable[[], str] | None,
    **given: Any,
) -> None:
    """
    List tasks, newest first, a line each that starts with the id.

    \b
      traced-relay list --state failed --since 2h | traced-relay redrive - --rate 5
    """
    filters = {name: value for name, value in given.items() if value is not None}
    found = options.client(relay, audience, account, id_token).list(page_size=min(limit or 200, 200), **filters)
    for document in islice(found, limit or None):
        _say(document, [task_text.one_line(document)], as_json=as_json)


def _finite(_: click.Context, option: click.Parameter, number: float) -> float:
    if not isfinite(number):
        raise click.BadParameter("must be a number of times a second", param=option)
    return number


def _many(name: str, summary: str, ask: Callable[[Client, str], Document]) -> click.Command:
    """A verb for one task or many; one that is refused is said and counted, and the others go on."""

    @click.command(name, help=summary, epilog=options.STATUS)
    @click.argument("ids", metavar="ID...", nargs=-1, required=True)
    @click.option(
        "--rate",
        metavar="N",
        type=click.FloatRange(0, min_open=True),
        default=10.0,
        callback=_finite,
        help="A second, at most.",
    )
    @options.relay_options
    def verb(ids: tuple[str, ...], rate: float, as_json: bool, **where: Any) -> None:
        client, refused = options.client(**where), 0
        for task_id in _paced(_given(ids), rate):
            try:
                document = ask(client, task_id)
            except RelayError as exc:
                refused += 1
                click.echo(f"traced-relay: {printable(task_id)}: {printable(str(exc))}", err=True)
            else:
                _say(document, [task_text.one_line(document)], as_json=as_json)
        if refused:
            sys.exit(1)

    return verb


def _given(ids: Iterable[str]) -> Iterator[str]:
    """The ids themselves; for `-` the first word of every line of stdin."""
    for given in ids:
        if given == "-":
            yield from (line.split()[0] for line in click.open_file("-", errors="replace") if line.strip())
        else:
            yield given


def _paced(ids: Iterable[str], rate: float) -> Iterator[str]:
    """At most *rate* a second."""
    clock, due = SystemClock(), 0.0
    for task_id in ids:
        pause(clock, due)
        due = clock.monotonic() + 1 / rate
        yield task_id


VERBS: tuple[click.Command, ...] = (
    enqueue,
    status,
    list_,
    _many("cancel", "End tasks that wait or run. `-` reads ids from stdin.", lambda c, i: c.cancel(i)),
    _many("redrive", "Start failed or cancelled tasks again. `-` reads ids from stdin.", lambda c, i: c.redrive(i)),
    _many(
        "resend-callback",
        "Tell again how tasks have ended. `-` reads ids from stdin.",
        lambda c, i: c.resend_callback(i),
    ),
)
