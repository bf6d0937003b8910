"""`demo`, and the commands that run until a signal stops them: `dev`, `console`, `serve`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from traced_relay.cli import options
from traced_relay.runtime.stop_signal import stop_signal
from traced_relay.tracing import otel_environment

if TYPE_CHECKING:
    from traced_relay.client.client import Client

DEV_PORT, SAMPLE_PORT = 8080, 8090  # with another --port the sample downstream picks a free one


@click.command(epilog="Exit status: 0 if all three calls end as expected, 1 if not.")
@click.option("--records", is_flag=True, help="Print the JSON records of the calls, too.")
def demo(records: bool) -> None:
    """Relay three calls and print their waterfalls."""
    otel_environment.refuse_other_instrumentation()
    from traced_relay.dev.demo import run

    if not run(colour=sys.stdout.isatty(), records=records):
        sys.exit(1)


@click.command(epilog=options.SERVER_STATUS)
@options.port("--port", DEV_PORT, "Port of the relay")
@options.port("--tasks-port", 8123, "gRPC port of the queue, whose REST port is one higher", 65534)
@click.option("--data", metavar="DIR", type=Path, help="Directory to keep tasks in. Default: memory.")
@click.option("--config", metavar="FILE", type=Path, help="relay.yaml to use. Default: local callers, local URLs.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    help="Format of records. Default: text on a terminal, else json.",
)
def dev(port: int, tasks_port: int, data: Path | None, config: Path | None, log_format: str | None) -> None:
    """Run relay, queue and console on this machine until Ctrl-C."""
    otel_environment.refuse_other_instrumentation()
    from traced_relay.dev.environment import Dev

    text = log_format == "text" or (log_format is None and sys.stdout.isatty())
    sample_port = SAMPLE_PORT if port == DEV_PORT else 0
    with (
        stop_signal() as wait_for_signal,
        Dev(port=port, tasks_port=tasks_port, sample_port=sample_port, data=data, config=config, text=text) as running,
    ):
        click.echo(running.greeting(), err=True)
        running.application.interrupt(wait_for_signal())


@click.command(epilog=options.SERVER_STATUS)
@options.port("--port", 8081, "Port of the console")
@partial(options.client_options, timeout=8.0, tries=1)
def console(port: int, client: Client) -> None:
    """
    Serve a web console for a relay, on this machine only.

    It sends your token to the relay and never to the browser.
    """
    from traced_relay.console.app import console_app
    from traced_relay.runtime.listener import Listener

    with stop_signal() as wait_for_signal, Listener(console_app(client), port=port) as listener:
        click.echo(f"console  http://localhost:{listener.port}/  of {client.url}\n\nPress Ctrl-C to stop.", err=True)
        wait_for_signal()


@click.command(epilog=options.SERVER_STATUS)
def serve() -> None:
    """
    Run the production server.

    It reads its settings from the environment and relay.yaml (RELAY_CONFIG) and
    listens on PORT. If CLOUD_TASKS_EMULATOR_HOST names a running
    `traced-relay queue`, it listens on loopback only.
    """
    otel_environment.refuse_other_instrumentation()
    from traced_relay.config.settings import own_environment
    from traced_relay.server.production import serve_from_environment

    serve_from_environment(own_environment())
