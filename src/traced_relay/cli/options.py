"""Options that several commands share, and parsers of their values; an error names the option."""

from __future__ import annotations

import re
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from traced_relay.errors import InvalidSettings
from traced_relay.formats.durations import parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable

S = TypeVar("S")
T = TypeVar("T")
LOCAL_RELAY = "http://localhost:8080"
REQUEST_STATUS = "Exit status: 0 on success, 1 if the relay refuses or cannot be reached, 2 for invalid options."
SERVER_STATUS = "Exit status: 0 on SIGINT or SIGTERM, 1 if it cannot start, 2 for invalid options."


def name_of(file: IO[bytes]) -> str:
    """The file's name for messages; `stdin` for standard input, whose own name depends on how click opened it."""
    name = getattr(file, "name", None)
    return name if isinstance(name, str) and name not in ("-", "<stdin>") else "stdin"


def seconds(_: click.Context, option: click.Parameter, duration: str | None) -> float | None:
    return None if duration is None else parsed(option, parse_duration, duration)


def _headers(_: click.Context, option: click.Parameter, lines: tuple[str, ...]) -> dict[str, str]:
    found = [read_headers(line) for line in lines]
    if not all(found):
        raise click.BadParameter("must be 'name: value'", param=option)
    return {name: value for header in found for name, value in header.items()}


def pairs(_: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    split = [text.partition("=") for text in texts]
    if not all(name and equals for name, equals, _value in split):
        raise click.BadParameter("must be NAME=VALUE", param=option)
    return {name: value for name, _equals, value in split}


def parsed(option: click.Parameter, parse: Callable[[S], T], value: S) -> T:
    try:
        return parse(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param=option) from None


def project(_: click.Context, option: click.Parameter, name: str | None) -> str | None:
    if name is not None and not re.fullmatch(r"[a-z][a-z0-9.:-]{0,98}", name):
        raise click.BadParameter("must be a project id", param=option)
    return name


class _TokenFile:
    """The ID token in a file, read again when the file changes: a token lasts an hour, a console runs longer."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read()

    def __call__(self) -> str:
        # While the file is being written, the previous token is used.
        with suppress(OSError, ValueError):
            if self._file.stat().st_mtime_ns != self._changed_at:
                self._read()
        return self._token

    def _read(self) -> None:
        changed_at, token = self._file.stat().st_mtime_ns, self._file.read_text(errors="replace").strip()
        if not re.fullmatch(r"[A-Za-z0-9_.=-]+", token):
            raise ValueError("must contain an ID token and nothing else")
        self._changed_at, self._token = changed_at, token


def _token(_: click.Context, option: click.Parameter, file: Path | None) -> _TokenFile | None:
    return None if file is None else parsed(option, _TokenFile, file)


header_option = click.option(
    "--header", "headers", metavar="'NAME: VALUE'", multiple=True, callback=_headers, help="Header; repeatable."
)


_CREDENTIAL_OPTIONS = (
    click.option(
        "--relay", metavar="URL", default=LOCAL_RELAY, envvar="RELAY_URL", show_envvar=True, help="URL of the relay."
    ),
    click.option("--audience", metavar="AUDIENCE", help="Audience of the ID token. Default: the relay's URL."),
    click.option(
        "--impersonate-service-account",
        metavar="EMAIL",
        help="Service account to impersonate; user credentials cannot get a token for an audience.",
    ),
    click.option(
        "--token-file",
        "id_token",
        metavar="FILE",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        callback=_token,
        envvar="RELAY_TOKEN_FILE",
        show_envvar=True,
        help="File with an ID token, used instead of Application Default Credentials: `gcloud auth "
        "print-identity-token --impersonate-service-account=EMAIL --audiences=AUDIENCE --include-email`.",
    ),
)


def client_options(command: Callable[..., Any], **limits: Any) -> Callable[..., Any]:
    """Add --relay and the options for its credentials; the command gets a *client* with them and the *limits*."""

    @wraps(command)
    def with_client(*arguments: Any, relay: str, **values: Any) -> Any:
        from traced_relay.client.client import Client

        credentials = {name: values.pop(name) for name in ("audience", "impersonate_service_account", "id_token")}
        try:
            client = Client(relay, **credentials, **limits)
        except InvalidSettings as exc:
            raise click.UsageError(str(exc)) from exc
        return command(*arguments, client=client, **values)

    decorated: Callable[..., Any] = with_client
    for option in reversed(_CREDENTIAL_OPTIONS):
        decorated = option(decorated)
    return decorated


def request_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the client's options and --json."""
    as_json = click.option("--json", "as_json", is_flag=True, help="Print responses as JSON, one per line.")
    return client_options(as_json(command))


def port(name: str, default: int, text: str, highest: int = 65535) -> Callable[[Any], Any]:
    limits = click.IntRange(0, highest)
    return click.option(name, metavar="PORT", default=default, type=limits, help=f"{text}; 0 picks a free one.")


_HEADER_LINE = re.compile(r"(?:[<>] )?([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*")


def read_headers(text: str) -> dict[str, str]:
    """The headers in raw lines, up to the first blank line; request and status lines are skipped."""
    lines = [line.rstrip("\r") for line in text.lstrip("\r\n").split("\n")]
    until = next((number for number, line in enumerate(lines) if not line.strip("<> ")), len(lines))
    found = [_HEADER_LINE.fullmatch(line) for line in lines[:until]]
    return {line[1].lower(): line[2] for line in found if line}
