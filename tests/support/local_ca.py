"""A certificate authority that only its own clients trust, and servers' TLS contexts of every quality."""

from __future__ import annotations

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path

_DAY = timedelta(days=1)
_SIGNS_CERTIFICATES = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Authority:
    """Issues certificates into *directory*; its own is the file *certificate*."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named("traced-relay test authority")
        made = _builder(self._name, self._name, self._key, self._key, datetime.now(UTC) + _DAY)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        made = made.add_extension(_SIGNS_CERTIFICATES, critical=True)
        self.certificate = directory / "authority.pem"
        self.certificate.write_bytes(made.sign(self._key, SHA256()).public_bytes(Encoding.PEM))

    def client(self) -> ssl.SSLContext:
        """Trusts this authority and no other."""
        return ssl.create_default_context(cafile=self.certificate)

    def server(self, *hosts: str, is_expired: bool = False, is_self_signed: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain(*hosts, is_expired=is_expired, is_self_signed=is_self_signed))
        return context

    def chain(self, *hosts: str, is_expired: bool = False, is_self_signed: bool = False) -> Path:
        """A file with the key and the certificate of a server on these *hosts*."""
        key, name = ec.generate_private_key(ec.SECP256R1()), _named("server")
        until = datetime.now(UTC) + (-_DAY if is_expired else _DAY)
        issuer, signer = (name, key) if is_self_signed else (self._name, self._key)
        made = _builder(name, issuer, key, signer, until).add_extension(
            x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False
        )
        pem = made.sign(signer, SHA256()).public_bytes(Encoding.PEM)
        file = self._directory / f"{x509.random_serial_number()}.pem"
        file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + pem)
        return file


def _builder(
    name: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    until: datetime,
) -> x509.CertificateBuilder:
    """With the key identifiers that RFC 5280 asks for, and Python 3.13 insists on."""
    made = x509.CertificateBuilder(
        issuer, name, key.public_key(), x509.random_serial_number(), datetime.now(UTC) - 9 * _DAY, until
    )
    made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    return made.add_extension(authority, critical=False)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
