"""The `traced-relay` command. A user's mistake ends as one line on stderr and a status, never as a traceback."""

from __future__ import annotations

import json
import re
import signal
import sys
import traceback
from io import TextIOWrapper
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

import click

from traced_relay import __version__
from traced_relay.cli import explain, options, tail, task_commands
from traced_relay.downstream import webhook_signature
from traced_relay.errors import RelayError
from traced_relay.formats.durations import format_duration
from traced_relay.logs.record import rfc3339
from traced_relay.logs.terminal import printable
from traced_relay.runtime.clock import SystemClock
from traced_relay.runtime.stop_signal import stop_signal
from traced_relay.tracing import otel_environment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from traced_relay.deploy.plan import Finding

DEV_PORT, SAMPLE_PORT = 8080, 8090  # the sample's is another one where that is taken, or the relay's not its own


class _Queue(click.Command):
    """Stands for `queue` in the list of commands: the embedded queue brings gRPC along, and few commands want it."""

    @staticmethod
    def load() -> click.Command:
        from traced_relay.cli.queue import queue

        return queue


class _Commands(click.Group):
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, _Queue) else command, rest

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        otel_environment.ignore_instrumentation_settings()
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # as stderr is: not every terminal has every letter
        try:
            status = super().main(*args, **{**extra, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as exc:
            click.echo(exc.format_message(), err=True)
            sys.exit(exc.exit_code)
        except click.UsageError as exc:
            hint = f" (see `{exc.ctx.command_path} --help`)" if exc.ctx else ""
            _fail(exc.format_message().rstrip(".") + hint, exc.exit_code)
        except click.ClickException as exc:
            _fail(exc.format_message(), exc.exit_code)
        except RelayError as exc:
            _fail(str(exc), 1)
        except (click.Abort, KeyboardInterrupt):
            sys.exit(128 + signal.SIGINT)
        except BrokenPipeError:
            sys.stdout = None  # whoever read it has gone; nothing is left to flush
            sys.exit(1)
        except Exception as exc:  # even an import may fail, by what OTEL_* variables say
            if not _is_on_google():
                raise
            text = f"traced-relay: ended with {type(exc).__name__}"
            click.echo(_entry("CRITICAL", text, stack_trace=traceback.format_exc()), err=True)
            sys.exit(1)
        sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, status: int) -> NoReturn:
    text = f"traced-relay: {printable(message)}"
    click.echo(_entry("ERROR", text) if _is_on_google() else text, err=True)
    sys.exit(status)


def _is_on_google() -> bool:
    from traced_relay.config.settings import is_on_google, own_environment

    return is_on_google(own_environment())


def _entry(severity: str, text: str, **more: str) -> str:
    """One line for Cloud Logging, where a line that is not JSON has no severity."""
    entry = {"severity": severity, "time": rfc3339(SystemClock().now()), "message": text, "logger": "traced_relay"}
    return json.dumps(entry | more)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="traced-relay")
def main() -> None:
    """Hand slow HTTP calls to Cloud Tasks and keep sight of them."""


for verb in (
    _Queue("queue", help="Run the embedded queue, a Cloud Tasks emulator."),
    *task_commands.VERBS,
    explain.explain,
    tail.tail,
):
    main.add_command(verb)


@main.command()
def demo() -> None:
    """Relay three calls; print their waterfalls and records."""
    otel_environment.refuse_other_instrumentation()
    from traced_relay.dev.demo import run

    if not run(colour=sys.stdout.isatty()):
        sys.exit(1)


@main.command()
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


@main.command(epilog="Ends with 0 when it is told to, with 1 if it cannot start, with 2 for a mistake here.")
@click.option("--port", default=8081, type=click.IntRange(0, 65535), help="Of the pages; 0: any free one.")
@options.asks_as_somebody
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


@main.command()
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


@main.command()
@click.option("--cloud", is_flag=True, help="If the files are right: look at what is deployed, too.")
@click.option("--project", metavar="P", envvar="GOOGLE_CLOUD_PROJECT", show_envvar=True, help="Whose the files are.")
@click.option("--json", "as_json", is_flag=True, help="Print an object for each problem, a line each.")
def check(cloud: bool, project: str | None, as_json: bool) -> None:
    """
    Look for mistakes before a deploy does.

    Reads relay.yaml, app.yaml, otel.yaml (those that are in this directory) and
    the environment as the service would, and prints every problem with its
    file and key. Ends with 1 if there is any; a warning is none. Where a project
    is named, what relay.yaml has only as an example is a problem, too.

    With --cloud it asks Google, as the environment's Google credentials, for
    APIs, queues, rights, secrets, indexes, alerts and versions: each that is not
    as the files say, or that you may not see, is a problem. Nothing is changed.
    """
    from traced_relay.config.settings import own_environment
    from traced_relay.deploy.check import problems, shown

    if cloud and not re.fullmatch(r"[a-z][a-z0-9.:-]{3,98}", project or ""):
        raise click.UsageError("--cloud needs a project's id: --project, or GOOGLE_CLOUD_PROJECT")
    environ = {**own_environment(), **({"GOOGLE_CLOUD_PROJECT": project} if project else {})}
    found: Iterable[str | Finding] = problems(environ=environ)
    seen = ""
    if cloud and project and not found:
        from traced_relay.deploy.cloud_check import connected, findings

        found = findings(connected(project), project, Path(), environ)
        seen = f", nor in project {project}"
    count = 0
    for line, is_problem in shown(found, as_json=as_json):
        click.echo(printable(line))
        count += is_problem
    if count and cloud and not seen:
        click.echo("the project was not looked at: mend this first", err=True)
    if count:
        sys.exit(1)
    if not as_json:
        click.echo(f"no problem found{seen}")


def _keys(_: click.Context, option: click.Parameter, secrets: tuple[str, ...]) -> tuple[bytes, ...]:
    if any(webhook_signature.SECRET_NAME.fullmatch(secret) for secret in secrets):
        raise click.BadParameter(
            "must be the secret itself; `gcloud secrets versions access latest` prints it", param=option
        )
    return options.read(option, webhook_signature.parse_secrets, " ".join(secrets))


@main.command()
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
    given = (webhook_signature.read_headers(file.read_text("latin-1")) if file else {}) | headers
    if not given:
        raise click.UsageError("its headers are needed: --header 'webhook-id: …' and two more, or --headers FILE")
    now = SystemClock().now()
    webhook_signature.verify(keys, given, body.read(), now, tolerance)
    age = now - int(given["webhook-timestamp"])
    when = f"{format_duration(abs(age) // 1)} {'ago' if age >= 0 else 'ahead of this clock'}"
    click.echo(f"the signature is good: {given['webhook-id']}, signed {when}")
