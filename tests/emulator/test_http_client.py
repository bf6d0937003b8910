from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from threading import Thread
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from support.scripted import ScriptedWorker
from traced_relay.emulator.http_client import IDLE_SECONDS, Connections
from traced_relay.emulator.http_request import Origin
from traced_relay.runtime.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def connections(clock: ManualClock) -> Iterator[Connections]:
    made = Connections(clock)
    yield made
    made.close()


def origin_of(worker: ScriptedWorker) -> Origin:
    return Origin(is_tls=False, host="127.0.0.1", port=int(worker.url.rpartition(":")[2]))


def ignore(connection: socket.socket) -> None:
    assert connection.fileno() > 0


def test_a_connection_is_reused_only_for_a_moment(connections: Connections, clock: ManualClock) -> None:
    held: list[socket.socket] = []
    with ScriptedWorker() as worker:
        first = connections.get(origin_of(worker), 5, held.append)
        connections.put(origin_of(worker), first)
        clock.advance(IDLE_SECONDS * 0.9)
        second = connections.get(origin_of(worker), 5, held.append)
        second.close()

    assert first is second
    assert held == [first, first]


def test_expired_connections_are_closed_when_another_is_returned(connections: Connections, clock: ManualClock) -> None:
    with ScriptedWorker() as worker:
        origin = origin_of(worker)
        old, young = (connections.get(origin, 5, ignore) for _ in range(2))
        connections.put(origin, old)
        clock.advance(IDLE_SECONDS)
        connections.put(origin, young)

        assert old.fileno() == -1
        assert connections.get(origin, 5, ignore) is young
        young.close()


def test_connections_are_kept_by_origin(connections: Connections) -> None:
    with ScriptedWorker() as worker, ScriptedWorker() as other:
        kept = connections.get(origin_of(worker), 5, ignore)
        connections.put(origin_of(worker), kept)

        fresh = connections.get(origin_of(other), 5, ignore)
        assert fresh is not kept
        fresh.close()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "worker")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "worker.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def secure(certificate: Path) -> Iterator[Origin]:
    """A worker that greets over TLS and goes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet() -> None:
            plain, _ = listening.accept()
            try:
                with context.wrap_socket(plain, server_side=True) as connection:
                    connection.sendall(b"hello")
            except OSError:
                plain.close()

        thread = Thread(target=greet)
        thread.start()
        yield Origin(is_tls=True, host="127.0.0.1", port=listening.getsockname()[1])
        thread.join()


def test_tls_connects_to_a_trusted_server(secure: Origin, certificate: Path, clock: ManualClock) -> None:
    connections = Connections(clock, tls=lambda: ssl.create_default_context(cafile=certificate))

    with connections.get(secure, 5, ignore) as connection:
        assert connection.recv(5) == b"hello"


def test_an_untrusted_certificate_is_refused(secure: Origin, connections: Connections) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        connections.get(secure, 5, ignore)
