from __future__ import annotations

import json
import logging
import socket
from contextlib import ExitStack
from threading import Event
from typing import TYPE_CHECKING

import grpc
import pytest
from google.auth import jwt
from google.protobuf.empty_pb2 import Empty
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import StringValue

from support.parts import without
from traced_relay.emulator.emulator import LocalQueue
from traced_relay.emulator.grpc_server import grpc_server
from traced_relay.errors import InvalidSettings, PortTaken

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def local() -> Iterator[LocalQueue]:
    with LocalQueue() as running:
        yield running


def certificates(channel: grpc.Channel) -> dict[str, str]:
    call = channel.unary_unary(
        "/traced_relay.LocalIdentity/Certificates", Empty.SerializeToString, StringValue.FromString
    )
    return dict(json.loads(call(Empty(), timeout=5).value))


def mint(channel: grpc.Channel, **wanted: str) -> str:
    call = channel.unary_unary("/traced_relay.LocalIdentity/Mint", Struct.SerializeToString, StringValue.FromString)
    request = Struct()
    request.update(wanted)
    return str(call(request, timeout=5).value)


def test_a_token_over_grpc_is_valid_by_the_published_keys(local: LocalQueue, channel: grpc.Channel) -> None:
    token = mint(channel, email="worker@p.iam.gserviceaccount.com", audience="https://relay.example.com")
    claims = jwt.decode(token, certs=certificates(channel), audience="https://relay.example.com")
    assert (claims["iss"], claims["email"]) == (local.rest_url, "worker@p.iam.gserviceaccount.com")


@pytest.mark.parametrize("wanted", [{}, {"email": "a@example.com"}, {"email": "", "audience": "https://x"}])
def test_a_token_needs_an_account_and_an_audience(channel: grpc.Channel, wanted: dict[str, str]) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        mint(channel, **wanted)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == "email and audience must be non-empty strings."


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/google.cloud.tasks.v2.CloudTasks/BatchCreateTasks", "BatchCreateTasks"),
        ("/google.cloud.tasks.v2beta3.CloudTasks/ListQueues", "ListQueues"),
        ("/google.longrunning.Operations/GetOperation", "GetOperation"),
    ],
)
def test_an_unknown_method_is_unimplemented_by_name(channel: grpc.Channel, path: str, method: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(path)(b"whatever", timeout=5)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert refused.value.details() == f"{method} is not implemented by the embedded queue."


def test_a_taken_port_is_named(local: LocalQueue) -> None:
    port = int(local.address.rpartition(":")[2])
    server = grpc_server(local.service, mint=local.token, certificates=dict, host="127.0.0.1", port=port)
    with pytest.raises(PortTaken, match=f"port {port} on 127.0.0.1 is used by another process"), server:
        pass


def test_a_foreign_address_is_invalid_settings(local: LocalQueue) -> None:
    server = grpc_server(local.service, mint=local.token, certificates=dict, host="192.0.2.1", port=0)
    with pytest.raises(InvalidSettings, match="Cannot assign requested address"), server:
        pass


def test_the_server_listens_on_ipv6_too(local: LocalQueue) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        without("IPv6", "this machine has no IPv6")
    with (
        grpc_server(local.service, mint=local.token, certificates=lambda: {"k": "v"}, host="::1", port=0) as port,
        grpc.insecure_channel(f"[::1]:{port}") as channel,
    ):
        assert certificates(channel) == {"k": "v"}


def test_a_bug_is_reported_as_internal_and_logged(local: LocalQueue, caplog: pytest.LogCaptureFixture) -> None:
    def defective(email: str, audience: str) -> str:
        raise ZeroDivisionError

    with (
        grpc_server(local.service, mint=defective, certificates=dict, host="127.0.0.1", port=0) as port,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        mint(channel, email="a@example.com", audience="https://x")
    assert refused.value.code() is grpc.StatusCode.INTERNAL
    assert refused.value.details() == "Internal error encountered."
    (record,) = caplog.records
    assert (record.getMessage(), record.levelno) == ("Mint failed", logging.ERROR)
    assert record.exc_info
    assert record.exc_info[0] is ZeroDivisionError


def test_a_stop_does_not_wait_for_a_call_that_hangs(local: LocalQueue) -> None:
    entered, released = Event(), Event()

    def hang(email: str, audience: str) -> str:
        entered.set()
        released.wait(10)
        return "late"

    with ExitStack() as running:
        server = grpc_server(local.service, mint=hang, certificates=dict, host="127.0.0.1", port=0)
        port = running.enter_context(server)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/traced_relay.LocalIdentity/Mint", Struct.SerializeToString)
            request = Struct()
            request.update({"email": "a@example.com", "audience": "https://x"})
            answer = call.future(request, timeout=10)
            assert entered.wait(5)
            running.close()
            assert answer.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
            released.set()
