"""Cloud Tasks over gRPC, and a service of our own that signs ID tokens for `traced-relay queue token`."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import StringValue

from traced_relay.emulator.errors import ApiError, invalid, status_of, unimplemented
from traced_relay.emulator.methods import METHODS
from traced_relay.errors import PortTaken
from traced_relay.runtime.sockets import address_of, listen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from google.protobuf.message import Message

    from traced_relay.emulator.service import Service

logger = logging.getLogger(__name__)

IDENTITY = "traced_relay.LocalIdentity"
GRACE = 0.2  # seconds for calls in flight
THREADS = 16  # they wait for the disk; more would put more changes into a commit, but switch more often


@contextmanager
def grpc_server(
    service: Service,
    *,
    mint: Callable[[str, str], str],
    certificates: Callable[[], Mapping[str, str]],
    host: str,
    port: int,
) -> Iterator[int]:
    """A server on *host* and *port* (0 picks a free one) for as long as the block runs; yields the port."""
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="grpc")
    server = grpc.server(threads, options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((*_cloud_tasks(service), _identity(mint, certificates), _Unimplemented()))
    bound = _bind(server, host, port)
    server.start()
    try:
        yield bound
    finally:
        # Without a grace period idle connections are reset, which clients log as an error.
        server.stop(GRACE).wait()
        threads.shutdown(wait=False)


def _cloud_tasks(service: Service) -> Iterator[grpc.GenericRpcHandler]:
    versions: dict[str, dict[str, grpc.RpcMethodHandler]] = {"v2": {}, "v2beta3": {}}
    for method, (request_type, _) in METHODS.items():
        version, _, name = method.rpartition(".")
        versions[version or "v2"][name] = _unary(method, request_type, partial(service.call, method))
    for version, handlers in versions.items():
        yield grpc.method_handlers_generic_handler(f"google.cloud.tasks.{version}.CloudTasks", handlers)


def _identity(mint: Callable[[str, str], str], certificates: Callable[[], Mapping[str, str]]) -> grpc.GenericRpcHandler:
    def publish(_: Empty) -> StringValue:
        return StringValue(value=json.dumps(dict(certificates())))

    def token(request: Struct) -> StringValue:
        email, audience = (request.fields[name].string_value for name in ("email", "audience"))
        if not (email and audience):
            raise invalid("email and audience must be non-empty strings.")
        return StringValue(value=mint(email, audience))

    handlers = {
        "Certificates": _unary("Certificates", Empty, publish),
        "Mint": _unary("Mint", Struct, token),
    }
    return grpc.method_handlers_generic_handler(IDENTITY, handlers)


class _Unimplemented(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Handles every other method, with a clearer error than `Method not found!`."""

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        refusal = unimplemented(call.method.rpartition("/")[2])
        return grpc.unary_unary_rpc_method_handler(lambda _, context: _abort(context, refusal))


def _unary(name: str, request_type: type[Message], method: Callable[[Any], Message]) -> grpc.RpcMethodHandler:
    def respond(request: Message, context: grpc.ServicerContext) -> Any:
        try:
            return method(request)
        except ApiError as exc:
            refusal = exc
        except Exception:  # the caller gets an error, the log the reason
            logger.exception("%s failed", name)
            refusal = ApiError(grpc.StatusCode.INTERNAL, "Internal error encountered.")
        return _abort(context, refusal)

    return grpc.unary_unary_rpc_method_handler(
        respond, request_deserializer=request_type.FromString, response_serializer=methodcaller("SerializeToString")
    )


def _abort(context: grpc.ServicerContext, refusal: ApiError) -> Any:
    if refusal.help_links:
        context.set_trailing_metadata((("grpc-status-details-bin", status_of(refusal).SerializeToString()),))
    return context.abort(refusal.code, refusal.message)


def _bind(server: grpc.Server, host: str, port: int) -> int:
    # gRPC does not report why it cannot bind a port; a socket of our own does.
    listen(host, port).close()
    try:
        return int(server.add_insecure_port(address_of(host, port)))
    except RuntimeError as exc:
        raise PortTaken(f"port {port} on {host} cannot be bound: {exc}") from exc
