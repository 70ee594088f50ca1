"""Certificates for tests: authorities, and what they sign for loopback's address."""

from __future__ import annotations

import datetime as dt
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOW = dt.datetime.now(dt.UTC)
Signed = tuple[ec.EllipticCurvePrivateKey, x509.Certificate]


def certificate(name: str, signer: Signed | None = None, *, days: int = 30) -> Signed:
    """A key and its certificate: a new authority's, or one for loopback's address signed by another."""
    key, subject = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begin = NOW - dt.timedelta(days=60)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if signer is None else signer[1].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(NOW + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
    )
    if signer is not None:
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        built = built.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    return key, built.sign(key if signer is None else signer[0], hashes.SHA256())


def pem(one: x509.Certificate) -> bytes:
    """As it lies in a file."""
    return one.public_bytes(serialization.Encoding.PEM)
