"""`traced-relay queue`: the embedded queue as a process of its own, and `queue token`, which asks a running one."""

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

from traced_relay.emulator.emulator import LocalQueue
from traced_relay.emulator.errors import ApiError
from traced_relay.emulator.grpc_server import IDENTITY
from traced_relay.errors import InvalidSettings, Unavailable
from traced_relay.runtime.loopback import is_loopback
from traced_relay.runtime.stop_signal import stop_signal

if TYPE_CHECKING:
    from collections.abc import Iterator


@click.group(invoke_without_command=True)
@click.option("--host", default="127.0.0.1", help="Address to listen on.")
@click.option("--port", default=8123, type=click.IntRange(0, 65535), help="For gRPC; 0: any free one.")
@click.option("--rest-port", default=8124, type=click.IntRange(0, 65535), help="For REST; 0: any free one.")
@click.option("--data", metavar="FILE", type=Path, help="Keep tasks in this file, through crashes too; else in memory.")
@click.option("--queue", "queues", metavar="NAME", multiple=True, help="Full name of a queue to make; repeatable.")
@click.option(
    "--app-engine",
    "routes",
    metavar="SERVICE=URL",
    multiple=True,
    help="Where App Engine tasks go; `default=URL` takes those of services not named; repeatable.",
)
@click.pass_context
def queue(ctx: click.Context, /, queues: tuple[str, ...], routes: tuple[str, ...], **where: Any) -> None:
    """Run the embedded queue, a Cloud Tasks emulator."""
    if ctx.invoked_subcommand:
        return
    with stop_signal() as wait_for_signal, _start(app_engine=dict(map(_route, routes)), **where) as running:
        for name in queues:
            _add(running, name)
        _announce(running, where["host"], where["data"])
        wait_for_signal()


@contextmanager
def _start(**options: Any) -> Iterator[LocalQueue]:
    try:
        running = LocalQueue(**options).start()
    except OSError as exc:
        raise InvalidSettings(f"the queue cannot start: {exc}") from exc
    try:
        yield running
    finally:
        running.stop()


def _route(line: str) -> tuple[str, str]:
    service, _, url = line.partition("=")
    parts = urlsplit(url)
    if not (re.fullmatch("[a-z0-9-]+", service) and parts.scheme in ("http", "https") and parts.hostname):
        raise InvalidSettings(f"--app-engine must be SERVICE=http://HOST:PORT, got {line!r}")
    return service, url


def _add(running: LocalQueue, name: str) -> None:
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
        lines.append(f"warning: whoever reaches {host} can create tasks and have ID tokens signed")
    click.echo("\n".join(lines), err=True)


@queue.command()
@click.argument("email")
@click.option("--audience", required=True, help="Whom the token is for: its `aud` claim.")
@click.option("--host", default="127.0.0.1", help="Where the queue listens.")
@click.option("--port", default=8123, type=click.IntRange(1, 65535), help="The queue's port for gRPC.")
def token(email: str, audience: str, host: str, port: int) -> None:
    """Print an ID token for the account EMAIL, signed by the key of the queue that runs here."""
    wanted = Struct()
    wanted.update({"email": email, "audience": audience})
    address = f"{host}:{port}"
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        mint = channel.unary_unary(f"/{IDENTITY}/Mint", Struct.SerializeToString, StringValue.FromString)
        try:
            click.echo(mint(wanted, timeout=5).value)
        except grpc.RpcError as exc:
            raise _refusal(exc, address) from exc


def _refusal(error: grpc.RpcError, address: str) -> InvalidSettings | Unavailable:
    if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
        return InvalidSettings(error.details())
    return Unavailable(f"no queue answers on {address}; `traced-relay queue` starts one")
