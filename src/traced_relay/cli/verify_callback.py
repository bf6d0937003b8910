"""`traced-relay verify-callback`: verifies the signature of a received callback."""

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
            "must be the secret's value, not its name; `gcloud secrets versions access latest` prints the value",
            param=option,
        )
    return options.parsed(option, webhook_signature.parse_secrets, " ".join(secrets))


@click.command(epilog="Exit status: 0 if the signature is valid, 1 if not, 2 for invalid options.")
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
    help="Signing secret of the relay; repeatable, one match is enough.",
)
@options.header_option
@click.option(
    "--headers",
    "file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the received header lines; a request line and other headers are ignored.",
)
@click.option(
    "--tolerance",
    metavar="DURATION",
    default="5m",
    callback=options.seconds,
    help="Maximum difference between the callback's timestamp and this clock.",
)
def verify_callback(
    body: IO[bytes], keys: tuple[bytes, ...], headers: dict[str, str], file: Path | None, tolerance: float
) -> None:
    """
    Verify the signature of a received callback.

    BODY is a file with the exact bytes of its body. Default: stdin.

    \b
      export RELAY_CALLBACK_SECRET=whsec_…
      traced-relay verify-callback body.json \\
        --header 'webhook-id: 5b487531bceaaa36f43ec81db3b338f9' \\
        --header 'webhook-timestamp: 1795292880' \\
        --header 'webhook-signature: v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4='
    """
    given = (options.read_headers(file.read_text("latin-1")) if file else {}) | headers
    if not given:
        raise click.UsageError("headers are required: --header 'webhook-id: …' and two more, or --headers FILE")
    now = SystemClock().now()
    webhook_signature.verify(keys, given, body.read(), now, tolerance)
    age = now - int(given["webhook-timestamp"])
    when = f"{format_duration(abs(age) // 1)} {'ago' if age >= 0 else 'ahead of this clock'}"
    click.echo(f"the signature is valid: {given['webhook-id']}, signed {when}")
