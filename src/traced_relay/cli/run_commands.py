"""Commands that run until a signal ends them: `demo`, `dev`, `console`, `serve`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from traced_relay.cli import options
from traced_relay.runtime.stop_signal import stop_signal
from traced_relay.tracing import otel_environment

DEV_PORT, SAMPLE_PORT = 8080, 8090  # the sample's is another one where that is taken, or the relay's not its own


@click.command()
@click.option("--records", is_flag=True, help="Print the JSON records of the calls, too.")
def demo(records: bool) -> None:
    """Relay three calls; print their waterfalls."""
    otel_environment.refuse_other_instrumentation()
    from traced_relay.dev.demo import run

    if not run(colour=sys.stdout.isatty(), records=records):
        sys.exit(1)


@click.command()
@click.option("--port", default=DEV_PORT, type=click.IntRange(0, 65535), help="The relay's; 0: any free one.")
@click.option("--tasks-port", default=8123, type=click.IntRange(0, 65534), help="The queue's, for gRPC; REST: one up.")
@click.option("--data", metavar="DIR", type=Path, help="Keep tasks in this directory; else in memory.")
@click.option("--config", metavar="FILE", type=Path, help="A relay.yaml; else anybody on loopback may call loopback.")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Default: text on a terminal, else json.")
def dev(port: int, tasks_port: int, data: Path | None, config: Path | None, log_format: str | None) -> None:
    """Run relay and queue on this machine until Ctrl-C."""
    otel_environment.refuse_other_instrumentation()
    from traced_relay.dev.environment import Dev

    text = log_format == "text" or (log_format is None and sys.stdout.isatty())
    sample_port = SAMPLE_PORT if port == DEV_PORT else 0
    with (
        stop_signal() as wait_for_signal,
        Dev(port=port, tasks_port=tasks_port, sample_port=sample_port, data=data, config=config, text=text) as running,
    ):
        click.echo(running.greeting(), err=True)
        running.interrupt(wait_for_signal())


@click.command(epilog="Ends with 0 when it is told to, with 1 if it cannot start, with 2 for a mistake here.")
@click.option("--port", default=8081, type=click.IntRange(0, 65535), help="Of the pages; 0: any free one.")
@options.credential_options
def console(port: int, **where: Any) -> None:
    """
    Show a relay's tasks in a browser on this machine.

    The relay is asked with your token, which does not leave this process.
    """
    from traced_relay.console.app import console_app
    from traced_relay.runtime.listener import Listener

    client = options.client(**where, timeout=8.0, tries=1)
    with stop_signal() as wait_for_signal, Listener(console_app(client), port=port) as listener:
        click.echo(f"console  http://localhost:{listener.port}/  of {client.url}\n\nCtrl-C ends it.", err=True)
        wait_for_signal()


@click.command()
def serve() -> None:
    """
    Run the production server.

    The environment and relay.yaml (RELAY_CONFIG) say how; it listens on PORT.
    With CLOUD_TASKS_EMULATOR_HOST set to a running `traced-relay queue` it
    serves this machine alone.
    """
    otel_environment.refuse_other_instrumentation()
    from traced_relay.config.settings import own_environment
    from traced_relay.server.production import serve_as_told

    serve_as_told(own_environment())
