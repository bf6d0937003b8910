"""`traced-relay verify-callback`: checks a received callback's signature."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import click

from traced_relay.cli import options
from traced_relay.downstream import webhook_signature
from traced_relay.formats.durations import format_duration
from traced_relay.runtime.clock import SystemClock


def _keys(_: click.Context, option: click.Parameter, secrets: tuple[str, ...]) -> tuple[bytes, ...]:
    if any(webhook_signature.SECRET_NAME.fullmatch(secret) for secret in secrets):
        raise click.BadParameter(
            "must be the secret itself; `gcloud secrets versions access latest` prints it", param=option
        )
    return options.read(option, webhook_signature.parse_secrets, " ".join(secrets))


@click.command()
@click.argument("body", type=click.File("rb"), default="-")
@click.option(
    "--secret",
    "keys",
    metavar="whsec_…",
    multiple=True,
    required=True,
    envvar="RELAY_CALLBACK_SECRET",
    show_envvar=True,
    callback=_keys,
    help="What the relay signs with; repeatable, one that matches is enough.",
)
@click.option(
    "--header", "headers", metavar="'NAME: VALUE'", multiple=True, callback=options.headers, help="Repeatable."
)
@click.option(
    "--headers",
    "file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Header lines as they came; a request line and other headers may be among them.",
)
@click.option(
    "--tolerance", metavar="DURATION", default="5m", callback=options.seconds, help="How old it may be, or how new."
)
def verify_callback(
    body: IO[bytes], keys: tuple[bytes, ...], headers: dict[str, str], file: Path | None, tolerance: float
) -> None:
    """
    Check the signature of a callback that was received.

    BODY is a file with its exact bytes; without it they are read from stdin.
    Ends with 0 if one of the secrets signed it lately, with 1 if not.

    \b
      export RELAY_CALLBACK_SECRET=whsec_…
      traced-relay verify-callback body.json \\
        --header 'webhook-id: 5b487531bceaaa36f43ec81db3b338f9' \\
        --header 'webhook-timestamp: 1795292880' \\
        --header 'webhook-signature: v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4='
    """
    given = (options.read_headers(file.read_text("latin-1")) if file else {}) | headers
    if not given:
        raise click.UsageError("its headers are needed: --header 'webhook-id: …' and two more, or --headers FILE")
    now = SystemClock().now()
    webhook_signature.verify(keys, given, body.read(), now, tolerance)
    age = now - int(given["webhook-timestamp"])
    when = f"{format_duration(abs(age) // 1)} {'ago' if age >= 0 else 'ahead of this clock'}"
    click.echo(f"the signature is good: {given['webhook-id']}, signed {when}")
