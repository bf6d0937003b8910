"""`traced-relay queue` runs the embedded queue in its own process; `queue token` gets ID tokens from a running one."""

from __future__ import annotations

import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click
import grpc
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import StringValue

from traced_relay.cli import options
from traced_relay.emulator.emulator import LocalQueue
from traced_relay.emulator.errors import ApiError
from traced_relay.emulator.grpc_server import IDENTITY
from traced_relay.errors import InvalidSettings, Unavailable
from traced_relay.runtime.loopback import is_loopback
from traced_relay.runtime.stop_signal import stop_signal

if TYPE_CHECKING:
    from collections.abc import Iterator


@click.group(invoke_without_command=True, epilog=options.SERVER_STATUS)
@click.option("--host", metavar="HOST", default="127.0.0.1", help="Address to listen on.")
@options.port("--port", 8123, "gRPC port")
@options.port("--rest-port", 8124, "REST port")
@click.option("--data", metavar="FILE", type=Path, help="File to keep tasks in; survives a crash. Default: memory.")
@click.option("--queue", "queues", metavar="NAME", multiple=True, help="Full name of a queue to create; repeatable.")
@click.option(
    "--app-engine",
    "routes",
    metavar="SERVICE=URL",
    multiple=True,
    help="URL of an App Engine service; `default=URL` serves all services not named; repeatable.",
)
@click.pass_context
def queue(ctx: click.Context, /, queues: tuple[str, ...], routes: tuple[str, ...], **queue_options: Any) -> None:
    """Run the embedded Cloud Tasks emulator."""
    if ctx.invoked_subcommand:
        return
    with stop_signal() as wait_for_signal, _started(app_engine=dict(map(_route, routes)), **queue_options) as running:
        for name in queues:
            _create_queue(running, name)
        _announce(running, queue_options["host"], queue_options["data"])
        wait_for_signal()


@contextmanager
def _started(**queue_options: Any) -> Iterator[LocalQueue]:
    try:
        running = LocalQueue(**queue_options).start()
    except OSError as exc:
        raise InvalidSettings(f"the queue cannot start: {exc}") from exc
    try:
        yield running
    finally:
        running.stop()


def _route(text: str) -> tuple[str, str]:
    service, _, url = text.partition("=")
    parts = urlsplit(url)
    if not (re.fullmatch("[a-z0-9-]+", service) and parts.scheme in ("http", "https") and parts.hostname):
        raise InvalidSettings(f"--app-engine must be SERVICE=http://HOST:PORT, got {text!r}")
    return service, url


def _create_queue(running: LocalQueue, name: str) -> None:
    try:
        running.add_queue(name)
    except ApiError as exc:
        raise InvalidSettings(f"--queue {name}: {exc.message}") from exc


def _announce(running: LocalQueue, host: str, data: Path | None) -> None:
    lines = [
        f"gRPC on {running.address}, REST on {running.rest_url}, tasks in {data or 'memory'}",
        f"  export CLOUD_TASKS_EMULATOR_HOST={running.address}",
        f"  export CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDTASKS={running.rest_url}/",
        "  export CLOUDSDK_AUTH_DISABLE_CREDENTIALS=true",
    ]
    if not is_loopback(host):
        lines.append(f"warning: every client that reaches {host} can create tasks and get signed ID tokens")
    click.echo("\n".join(lines), err=True)


@queue.command(epilog="Exit status: 0 on success, 1 if the queue refuses or cannot be reached, 2 for invalid options.")
@click.argument("email")
@click.option("--audience", metavar="AUDIENCE", required=True, help="Audience of the token: its `aud` claim.")
@click.option("--host", metavar="HOST", default="127.0.0.1", help="Address of the queue.")
@click.option("--port", default=8123, metavar="PORT", type=click.IntRange(1, 65535), help="gRPC port of the queue.")
def token(email: str, audience: str, host: str, port: int) -> None:
    """Print an ID token for the account EMAIL, signed by a running `traced-relay queue`."""
    request = Struct()
    request.update({"email": email, "audience": audience})
    address = f"{host}:{port}"
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        mint = channel.unary_unary(f"/{IDENTITY}/Mint", Struct.SerializeToString, StringValue.FromString)
        try:
            click.echo(mint(request, timeout=5).value)
        except grpc.RpcError as exc:
            if exc.code() is grpc.StatusCode.INVALID_ARGUMENT:
                raise InvalidSettings(exc.details()) from exc
            raise Unavailable(f"no queue responds at {address}; start one with `traced-relay queue`") from exc
