"""A certificate authority of the tests' own: a root, one below it, and certificates for hosts."""

from __future__ import annotations

import datetime
from ipaddress import ip_address
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

DAY = datetime.timedelta(days=1)


@attrs.frozen
class Pair:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def _issue(
    name: str, by: Pair | None, *, is_authority: bool, begins: float = -1, ends: float = 60, hosts: str = ""
) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    signed_by = key if by is None else by.key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if by is None else by.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins * DAY)
        .not_valid_after(now + ends * DAY)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signed_by.public_key()), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if hosts:
        names = [
            x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
            for host in hosts.split()
        ]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return Pair(builder.sign(signed_by, hashes.SHA256()), key)


@attrs.frozen
class Authority:
    """The two authorities, and where their root is kept."""

    folder: Path
    root: Pair = attrs.field(factory=lambda: _issue("root", None, is_authority=True))
    below: Pair = attrs.field(
        default=attrs.Factory(lambda self: _issue("below", self.root, is_authority=True), takes_self=True)
    )

    @property
    def ca(self) -> Path:
        """The file of the root."""
        path = self.folder / "root.pem"
        path.write_bytes(self.root.pem())
        return path

    def issue(
        self,
        name: str = "fawa",
        *,
        hosts: str = "localhost 127.0.0.1",
        begins: float = -1,
        ends: float = 60,
        whole: bool = True,
    ) -> tuple[Path, Path]:
        """Return the files of a certificate, with its chain where it is to be whole, and of its key."""
        leaf = _issue(name, self.below, is_authority=False, begins=begins, ends=ends, hosts=hosts)
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert.write_bytes(leaf.pem() + (self.below.pem() if whole else b""))
        key.write_bytes(leaf.key_pem())
        return cert, key
