"""Certificates for tests of TLS: an authority, and a server and a client that it has signed."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Files:
    """PEM. The server's certificate is for localhost."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


def make(folder: Path, *, age: datetime.timedelta = datetime.timedelta()) -> Files:
    """Valid for a day, which began ``age`` and a day ago: ``age`` of a day or more makes them expired."""
    folder.mkdir()
    until = datetime.datetime.now(datetime.UTC) + DAY - age
    key = ec.generate_private_key(ec.SECP256R1())
    ca = _certificate("test authority", key, None, until + 300 * DAY)
    files = Files(*(folder / name for name in ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")))
    files.ca.write_bytes(_pem(ca))
    for name, certificate, private in (
        ("localhost", files.server, files.server_key),
        ("daemon", files.client, files.client_key),
    ):
        own = ec.generate_private_key(ec.SECP256R1())
        certificate.write_bytes(_pem(_certificate(name, own, (ca, key), until)))
        private.write_bytes(_private(own))
    return files


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    by: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None,
    until: datetime.datetime,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    names = [x509.DNSName(name.replace(" ", "-")), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by[0].subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(until - 400 * DAY)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    return builder.sign(by[1] if by else key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
