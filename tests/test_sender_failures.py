from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from example_rows import TASK_ID, call
from raw_downstream import OK, RawDownstream, says, says_and_resets, says_and_stays, shakes_hands, trickles
from sending import PLAIN, TLS, no_token, sent, sent_to
from traced_relay.clock import SystemClock
from traced_relay.retry import Ending
from traced_relay.sender import Sender

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raw_downstream import Behaviour


@pytest.fixture
def sender() -> Iterator[Sender]:
    made = Sender(SystemClock(), no_token)
    yield made
    made.close()


@pytest.fixture(scope="module")
def tls_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where a server speaks TLS with a certificate that it signed itself."""
    key, name = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")]),
    )
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
    pem = made.sign(key, SHA256()).public_bytes(Encoding.PEM)
    file = tmp_path_factory.mktemp("tls") / "chain.pem"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    with RawDownstream(shakes_hands(context), reads=False) as downstream:
        yield downstream.port


def failed(reason: str) -> Ending:
    return Ending(None, reason)


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (says(), "reset"),
        (says_and_resets(), "reset"),
        (says_and_resets(OK, b"Content-Length: 100\r\n\r\n", b"abc"), "reset"),
        (says(OK, b"Content-Length: 100\r\n\r\n", b"abc"), "incomplete_response"),
        (says(OK, b"Transfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n"), "incomplete_response"),
        (says(OK, b"Transfer-Encoding: chunked\r\n\r\n", b"9\r\nabc"), "incomplete_response"),
        (says(OK, b"Transfer-Encoding: chunked\r\n\r\n", b"xyz\r\nabc\r\n0\r\n\r\n"), "incomplete_response"),
        (says(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 9\r\n\r\n", b"abc"), "incomplete_response"),
        (says(b"SSH-2.0-OpenSSH_9.6\r\n"), "malformed_response"),
        (says(b"\x15\x03\x01\x00\x02\x02\x16"), "malformed_response"),
        (says(b"hello, this is HTTP/0.9"), "malformed_response"),
        (says(b"HTTP/1.1 abc OK\r\n\r\n"), "malformed_response"),
        (says(b"HTTP/1.1 099 Low\r\n\r\n"), "malformed_response"),
        (says(b"HTTP/1.1 1000 High\r\n\r\n"), "malformed_response"),
        (says(b"HTTP/1.1 200 ", b"x" * 70_000, b"\r\n\r\n"), "malformed_response"),
        (says(OK, b"X: ", b"x" * 70_000, b"\r\n\r\n"), "malformed_response"),
        (says(OK, b"X: y\r\n" * 101, b"\r\n"), "malformed_response"),
        (says(OK, b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"), "malformed_response"),
    ],
    ids=range(18),
)
def test_what_is_no_whole_answer_is_a_reason(sender: Sender, behaviour: Behaviour, reason: str) -> None:
    exchange = sent_to(sender, behaviour)
    assert (exchange.ending, exchange.response, exchange.response_size) == (failed(reason), None, None)


@pytest.mark.parametrize(
    "behaviour",
    [
        says_and_stays(),
        says_and_stays(b"HTTP/1.1 2"),
        says_and_stays(OK, b"X: y\r\n"),
        says_and_stays(OK, b"Content-Length: 9\r\n\r\n", b"abc"),
        says_and_stays(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 9\r\n\r\n"),
        trickles(OK + b"Content-Length: 100000\r\n\r\n", b"x", 0.02),
        trickles(OK + b"\r\n", b"x", 0.02),
        trickles(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", 0.02),
        trickles(b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", b"x", 0.02),
    ],
    ids=range(9),
)
def test_a_silent_or_endless_answer_is_cut_at_its_timeout(sender: Sender, behaviour: Behaviour) -> None:
    started = monotonic()
    assert sent_to(sender, behaviour, timeout=0.15).ending == failed("timeout")
    assert 0.14 < monotonic() - started < 2


def test_a_closed_port_is_connect_failed(sender: Sender) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    exchange = sent(sender, f"http://127.0.0.1:{port}/")
    assert exchange.ending == failed("connect_failed")
    assert exchange.timing.connect_ms is None


def test_a_name_that_nobody_knows_is_dns_failed(sender: Sender) -> None:
    # The border lets no zone pass; here one that is not there makes the lookup fail without leaving this machine.
    nowhere = call(timeout=5.0).model_copy(update={"url": "http://[fe80::1%25nowhere]/"})
    assert sender.send(nowhere, PLAIN, TASK_ID).ending == failed("dns_failed")


def test_a_certificate_that_nobody_vouches_for_is_tls_failed(sender: Sender, tls_port: int) -> None:
    assert sent(sender, f"https://127.0.0.1:{tls_port}/", TLS).ending == failed("tls_failed")


def test_a_server_that_does_not_speak_tls_is_tls_failed(sender: Sender) -> None:
    with RawDownstream(says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), reads=False) as downstream:
        assert sent(sender, f"https://127.0.0.1:{downstream.port}/", TLS).ending == failed("tls_failed")


def test_tls_that_hangs_is_connect_failed(sender: Sender) -> None:
    with RawDownstream(says_and_stays(), reads=False) as downstream:
        exchange = sent(sender, f"https://127.0.0.1:{downstream.port}/", TLS, timeout=0.15)
    assert exchange.ending == failed("connect_failed")


def test_a_failed_call_is_made_once(sender: Sender) -> None:
    with RawDownstream(says_and_resets()) as downstream:
        assert sent(sender, f"http://127.0.0.1:{downstream.port}/", method="GET").ending == failed("reset")
        assert downstream.connections == 1
