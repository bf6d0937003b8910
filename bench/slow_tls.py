"""
A downstream over TLS that delays every response until a command; one process, one thread.

A second port, without TLS, takes the commands: `GET /held` returns how many wait,
`GET /release` responds to them, and `GET /hold` delays again.
"""

from __future__ import annotations

import datetime
import http.client
import ipaddress
import selectors
import socket
import ssl
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bench.processes import Server, free_port, module

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
_BODY = b'{"report":7}'  # the relay sends it compact; with its last byte the request is there


class SlowTls(Server):
    """The process that runs this file; clients trust it by the file *certificate*."""

    def __init__(self, directory: Path) -> None:
        self.certificate, port, self._told_at = directory / "slow-tls.pem", free_port(), free_port()
        _make_certificate(self.certificate)
        command = module("bench.slow_tls", str(port), str(self._told_at), str(self.certificate))
        super().__init__(command, port=port, directory=directory)
        self.url = f"https://127.0.0.1:{port}"

    def tell(self, word: str) -> int:
        """How many calls wait, or were answered."""
        telling = http.client.HTTPConnection("127.0.0.1", self._told_at, timeout=60)
        telling.request("GET", f"/{word}")
        with telling.getresponse() as answer:
            return int(answer.read())


def _make_certificate(file: Path) -> None:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench")])
    day, loopback = datetime.timedelta(days=1), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now - day, now + day
    ).add_extension(x509.SubjectAlternativeName([loopback]), critical=False)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(private + made.sign(key, SHA256()).public_bytes(Encoding.PEM))


class _Serving:
    def __init__(self, port: int, told_at: int, certificate: str) -> None:
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate)
        self._waiting = selectors.DefaultSelector()
        self._held: list[ssl.SSLSocket] = []
        self._is_holding = True
        for number, accept in ((port, self._accept), (told_at, self._listen_to)):
            listening = socket.create_server(("127.0.0.1", number), backlog=2048)
            self._waiting.register(listening, selectors.EVENT_READ, partial(accept, listening))

    def serve(self) -> None:
        while True:
            for key, _ in self._waiting.select():
                key.data()

    def _accept(self, listening: socket.socket) -> None:
        plain, _ = listening.accept()
        plain.setblocking(False)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened = self._tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        self._waiting.register(opened, selectors.EVENT_READ, partial(self._shake_hands, opened))

    def _shake_hands(self, opened: ssl.SSLSocket) -> None:
        if self._tried(opened, opened.do_handshake):
            self._waiting.modify(
                opened, selectors.EVENT_READ, partial(self._tried, opened, partial(self._read, opened))
            )

    def _read(self, opened: ssl.SSLSocket) -> None:
        got = opened.recv(16_384)
        if not got:
            raise ConnectionResetError
        if got.endswith(_BODY):
            self._held.append(opened)
            self._answer()

    def _tried(self, opened: ssl.SSLSocket, step: Callable[[], None]) -> bool:
        """Whether *step* was made, and not only has to wait; forgets the connection where it never will be."""
        try:
            step()
        except ssl.SSLWantReadError:
            return False
        except OSError:
            self._waiting.unregister(opened)
            opened.close()
            return False
        return True

    def _answer(self) -> int:
        if self._is_holding:
            return len(self._held)
        answered, self._held = self._held, []
        for opened in answered:
            with suppress(OSError):  # the relay has gone
                opened.send(_OK)
        return len(answered)

    def _listen_to(self, listening: socket.socket) -> None:
        telling, _ = listening.accept()
        with telling:
            word = telling.recv(4096).split()[1]
            if word != b"/held":
                self._is_holding = word == b"/hold"
            said = b"%d" % self._answer()
            telling.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))


if __name__ == "__main__":
    _Serving(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]).serve()
