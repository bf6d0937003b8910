"""The `traced-relay` command. A user's mistake prints one line on stderr and sets the exit status; no traceback."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

import click

from traced_relay.cli import explain, run_commands, tail, task_commands
from traced_relay.cli.check import check
from traced_relay.cli.verify_callback import verify_callback
from traced_relay.config.on_google import is_on_google
from traced_relay.errors import RelayError
from traced_relay.formats.durations import format_time
from traced_relay.formats.terminal import printable
from traced_relay.runtime.clock import SystemClock
from traced_relay.tracing import otel_environment
from traced_relay.version import __version__

# Stands for `queue`, which is imported when it is run: the embedded queue loads gRPC, which few commands need.
QUEUE = click.Command("queue", help="Run the embedded Cloud Tasks emulator.")


class _Commands(click.Group):
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if command is QUEUE:
            from traced_relay.cli.queue import queue as command
        return name, command, rest

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        otel_environment.ignore_instrumentation_settings()
        _open_closed_streams()
        if isinstance(sys.stdout, TextIOWrapper):
            # As stderr does: some terminals cannot encode every character.
            sys.stdout.reconfigure(errors="backslashreplace")
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
            sys.stdout = None  # the reader closed the pipe; nothing is left to flush
            sys.exit(1)
        except Exception as exc:  # even an import can fail, because of OTEL_* variables
            if not is_on_google():
                raise
            text = f"traced-relay: ended with {type(exc).__name__}"
            click.echo(_entry("CRITICAL", text, stack_trace=traceback.format_exc()), err=True)
            sys.exit(1)
        sys.exit(status if isinstance(status, int) else 0)


def _open_closed_streams() -> None:
    """Let /dev/null stand for a stream that was closed at the start; else the next file would get its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115


def _fail(message: str, status: int) -> NoReturn:
    text = f"traced-relay: {printable(message)}"
    click.echo(_entry("ERROR", text) if is_on_google() else text, err=True)
    sys.exit(status)


def _entry(severity: str, text: str, **more: str) -> str:
    """One line of JSON: Cloud Logging gives any other line no severity."""
    entry = {"severity": severity, "time": format_time(SystemClock().now()), "message": text, "logger": "traced_relay"}
    return json.dumps(entry | more)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="traced-relay")
def main() -> None:
    """Hand slow HTTP calls to Cloud Tasks and keep sight of them."""


for command in (
    run_commands.demo,
    run_commands.dev,
    run_commands.console,
    run_commands.serve,
    check,
    verify_callback,
    QUEUE,
    *task_commands.COMMANDS,
    explain.explain,
    tail.tail,
):
    main.add_command(command)
