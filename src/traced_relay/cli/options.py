"""Options that several commands take, and how their values are read; what cannot be read names its option."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from traced_relay.errors import InvalidSettings
from traced_relay.formats.durations import parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from traced_relay.client.client import Client

S = TypeVar("S")
T = TypeVar("T")
LOCAL_RELAY = "http://localhost:8080"
STATUS = "Ends with 0 if it went well, with 1 if the relay said no or cannot be reached, with 2 for a mistake here."


def name_of(file: IO[bytes]) -> str:
    """As a person calls it; what stdin is called differs by where it comes from."""
    name = getattr(file, "name", None)
    return name if isinstance(name, str) and name not in ("-", "<stdin>") else "stdin"


def seconds(_: click.Context, option: click.Parameter, duration: str) -> float:
    return read(option, parse_duration, duration)


def optional_seconds(ctx: click.Context, option: click.Parameter, duration: str | None) -> float | None:
    return None if duration is None else seconds(ctx, option, duration)


def headers(_: click.Context, option: click.Parameter, lines: tuple[str, ...]) -> dict[str, str]:
    found = [read_headers(line) for line in lines]
    if not all(found):
        raise click.BadParameter("must be 'name: value'", param=option)
    return {name: value for header in found for name, value in header.items()}


def pairs(_: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    split = [text.partition("=") for text in texts]
    if not all(name and equals for name, equals, _value in split):
        raise click.BadParameter("must be NAME=VALUE", param=option)
    return {name: value for name, _equals, value in split}


def read(option: click.Parameter, parse: Callable[[S], T], given: S) -> T:
    try:
        return parse(given)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param=option) from None


def project(_: click.Context, option: click.Parameter, name: str | None) -> str | None:
    if name is not None and not re.fullmatch(r"[a-z][a-z0-9.:-]{0,98}", name):
        raise click.BadParameter("must be a project's id", param=option)
    return name


class _TokenFile:
    """The ID token in a file, read again when the file has changed: a token lasts an hour, a console for longer."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read()

    def __call__(self) -> str:
        with suppress(OSError, ValueError):  # it is being written: what it held before has to do
            if self._file.stat().st_mtime_ns != self._changed_at:
                self._read()
        return self._token

    def _read(self) -> None:
        changed_at, token = self._file.stat().st_mtime_ns, self._file.read_text(errors="replace").strip()
        if not re.fullmatch(r"[A-Za-z0-9_.=-]+", token):
            raise ValueError("must hold an ID token and nothing else")
        self._changed_at, self._token = changed_at, token


def _token(_: click.Context, option: click.Parameter, file: Path | None) -> _TokenFile | None:
    return None if file is None else read(option, _TokenFile, file)


def credential_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give the *command* the options that say which relay, and as whom; `client` makes them into one."""
    options = (
        click.option(
            "--relay",
            metavar="URL",
            default=LOCAL_RELAY,
            envvar="RELAY_URL",
            show_envvar=True,
            help="The relay to ask.",
        ),
        click.option("--audience", metavar="AUDIENCE", help="Of the ID token; default: the relay's URL."),
        click.option(
            "--impersonate-service-account",
            "account",
            metavar="EMAIL",
            help="Service account to ask as; a person's own credentials cannot name an audience.",
        ),
        click.option(
            "--token-file",
            "id_token",
            metavar="FILE",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            callback=_token,
            envvar="RELAY_TOKEN_FILE",
            show_envvar=True,
            help="An ID token, instead of one from the environment's Google credentials: `gcloud auth "
            "print-identity-token --impersonate-service-account=EMAIL --audiences=AUDIENCE --include-email`.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def relay_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The same options, and a choice of how the answer is printed."""
    as_json = click.option("--json", "as_json", is_flag=True, help="Print what the relay answers, a line each.")
    return credential_options(as_json(command))


def client(
    relay: str, audience: str | None, account: str | None, id_token: Callable[[], str] | None, **more: Any
) -> Client:
    from traced_relay.client.client import Client

    try:
        return Client(relay, audience=audience, id_token=id_token, impersonate_service_account=account, **more)
    except InvalidSettings as exc:
        raise click.UsageError(str(exc)) from exc


_HEADER_LINE = re.compile(r"(?:[<>] )?([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*")


def read_headers(text: str) -> dict[str, str]:
    """The headers in raw lines; a line that is none (a status, a request) is left out, a blank one ends them."""
    lines = [line.rstrip("\r") for line in text.lstrip("\r\n").split("\n")]
    until = next((number for number, line in enumerate(lines) if not line.strip("<> ")), len(lines))
    found = [_HEADER_LINE.fullmatch(line) for line in lines[:until]]
    return {line[1].lower(): line[2] for line in found if line}
